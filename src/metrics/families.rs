//! Series made of plain numbers, in the form that the encoder wants.
//! Not here: which series there are.

use std::time::Duration;

use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Summary};

pub(super) fn gauge(name: &str, help: &str, value: f64) -> MetricFamily {
    family(MetricType::GAUGE, name, help, vec![sample(MetricType::GAUGE, &[], value)])
}

pub(super) fn counter(name: &str, help: &str, value: f64) -> MetricFamily {
    family(MetricType::COUNTER, name, help, vec![sample(MetricType::COUNTER, &[], value)])
}

/// Count and sum, without quantiles.
pub(super) fn summary(name: &str, help: &str, (count, time): (u64, Duration)) -> MetricFamily {
    let mut summary = Summary::default();
    summary.set_sample_count(count);
    summary.set_sample_sum(time.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_summary(summary);
    family(MetricType::SUMMARY, name, help, vec![metric])
}

/// Cumulative buckets by their upper bound in seconds, count and sum.
pub(super) fn histogram(name: &str, help: &str, buckets: &[(f64, u64)], (count, sum): (u64, f64)) -> MetricFamily {
    let bucket = |(bound, count): &(f64, u64)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(*count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.iter().map(bucket).collect());
    histogram.set_sample_count(count);
    histogram.set_sample_sum(sum);
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    family(MetricType::HISTOGRAM, name, help, vec![metric])
}

pub(super) fn family(kind: MetricType, name: &str, help: &str, samples: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(samples);
    family
}

pub(super) fn sample(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let pairs = labels.iter().map(|(name, text)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).into());
        pair.set_value((*text).into());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}
