//! The program's own messages: on stderr, plain or one JSON object a line. Pingora speaks from `warn` up.
//! Not here: the request log. Our own messages never hold a query string or a key.

use std::io::Write;

use clap::ValueEnum;
use log::{Log, Metadata, Record};

/// What is said unless something else is asked for; `pingora` covers its crates, whose information is about itself.
const LIBRARIES: &str = "pingora=warn,rustls=warn,mysql_async=warn,h2=warn,hyper=warn";

/// Pingora says this as an error when it looks at an idle connection in the same moment as the task that waits for its end. It
/// then opens another one: nothing failed, no client saw anything, and nobody can do anything about it.
const HARMLESS: &str = "failed to acquire reusable stream";

/// Where Pingora says of single requests what their records say already: that a client waited for another one's answer in vain,
/// that something stale was served, that a shared answer broke off. A line each would be a second log, without bounds.
const OF_SINGLE_REQUESTS: &str = "pingora_proxy::proxy_cache";

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Level {
    /// What needs someone.
    Error,
    /// What may need someone.
    Warn,
    /// Start, stop, reload.
    Info,
    /// Each step.
    Debug,
    /// Everything.
    Trace,
}

/// How it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Plain,
    /// For collectors: one JSON object a line.
    Json,
}

/// Starts it, once. The command line decides before `RUST_LOG`, and that before `TOLLGATE_LOG_LEVEL`.
pub(super) fn start(level: Option<Level>, format: Option<Format>) -> Result<(), String> {
    let level_of_environment = from_environment::<Level>("TOLLGATE_LOG_LEVEL")?;
    let format = format.or(from_environment("TOLLGATE_LOG_FORMAT")?).unwrap_or(Format::Plain);
    let word = level.or(level_of_environment).unwrap_or(Level::Info).to_possible_value();
    let mut filters = format!("{},{LIBRARIES}", word.as_ref().map_or("info", |word| word.get_name()));
    if let (None, Ok(rust_log)) = (level, std::env::var("RUST_LOG")) {
        filters = format!("{filters},{rust_log}");
    }
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(&filters);
    if format == Format::Json {
        builder.format(|out, record| {
            let time = out.timestamp_millis();
            writeln!(out, "{}", json(&time.to_string(), record))
        });
    }
    let messages = Messages(builder.build());
    log::set_max_level(messages.0.filter());
    log::set_boxed_logger(Box::new(messages)).map_err(|error| error.to_string())
}

/// All messages, with what is no error told as none.
struct Messages(env_logger::Logger);

impl Log for Messages {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        let is_harmless = record.target() == OF_SINGLE_REQUESTS
            || (record.target().starts_with("pingora") && record.args().as_str() == Some(HARMLESS));
        if is_harmless {
            self.0.log(&record.to_builder().level(log::Level::Debug).build());
        } else {
            self.0.log(record);
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

fn json(time: &str, record: &Record<'_>) -> String {
    let mut line = serde_json::json!({
        "time": time,
        "level": record.level().as_str().to_ascii_lowercase(),
        "target": record.target(),
        "message": record.args().to_string(),
    });
    // The texts are ours and our libraries'; a key-value pair that is no JSON is shown as text.
    let mut values = Values(serde_json::Map::new());
    if record.key_values().visit(&mut values).is_ok() && !values.0.is_empty() {
        line["fields"] = values.0.into();
    }
    line.to_string()
}

struct Values(serde_json::Map<String, serde_json::Value>);

impl<'a> log::kv::VisitSource<'a> for Values {
    fn visit_pair(&mut self, key: log::kv::Key<'a>, value: log::kv::Value<'a>) -> Result<(), log::kv::Error> {
        self.0.insert(key.to_string(), value.to_string().into());
        Ok(())
    }
}

fn from_environment<T: ValueEnum>(name: &str) -> Result<Option<T>, String> {
    let Ok(word) = std::env::var(name) else { return Ok(None) };
    T::from_str(&word, true).map(Some).map_err(|_| {
        let known: Vec<String> = T::value_variants()
            .iter()
            .filter_map(|variant| variant.to_possible_value().map(|value| value.get_name().to_owned()))
            .collect();
        format!("{name}: `{word}` is none of {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written, where so much is said.
    fn said(filters: &str, target: &str, message: std::fmt::Arguments<'_>) -> String {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut builder = env_logger::Builder::new();
        builder.parse_filters(filters).target(env_logger::Target::Pipe(Box::new(writer)));
        let messages = Messages(builder.build());
        messages.log(&Record::builder().args(message).level(log::Level::Error).target(target).build());
        drop((messages, builder));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    }

    #[test]
    fn what_pingora_takes_for_an_error_and_is_none_is_said_to_those_who_debug() {
        let usual = format!("info,{LIBRARIES}");
        let harmless = || format_args!("failed to acquire reusable stream");
        assert_eq!(said(&usual, "pingora_core::connectors", harmless()), "");
        assert!(said("debug", "pingora_core::connectors", harmless()).contains("DEBUG"));
        assert!(said(&usual, "pingora_core::connectors", format_args!("another")).contains("ERROR"));
        assert!(said(&usual, "tollgate", harmless()).contains("ERROR"));
    }

    #[test]
    fn a_json_line_holds_one_message_whatever_is_in_it() {
        let arguments = format_args!("two\nlines \"quoted\"");
        let record = Record::builder().args(arguments).level(log::Level::Warn).target("tollgate::x").build();
        let line = json("2026-01-01T00:00:00.000Z", &record);
        assert!(!line.contains('\n'));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "two\nlines \"quoted\"");
        assert_eq!(value["level"], "warn");
    }
}
