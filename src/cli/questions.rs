//! The commands that ask the request log: usage, requests, requests show, log audit. Each hands what was written on the
//! command line on as names and values, so that the admin API takes the same.
//! Not here: what the questions mean, and what their answers look like (`analytics`).

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use uuid::Uuid;

use super::watch::draw;
use super::{File, commands, complain, finish};
use crate::analytics::requests::{self, Requests as Page};
use crate::analytics::{Audit, Format, Parameters, Style, question, usage};
use crate::config::StoreUrl;
use crate::store::read::Reader;

/// How long an answer may take: an audit reads every row.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// Which requests are meant: the same for usage and for single requests.
#[derive(Debug, Args)]
struct Filter {
    /// Ends now, and begins so much earlier: 15m, 1h, 24h, 7d, all [default: 24h]
    #[arg(long, value_name = "WINDOW")]
    last: Option<String>,
    /// Begins then: 2026-03-01, "2026-03-01 12:30", 2026-03-01T12:30:00+01:00
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Ends before then [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// The zone of times without an offset, and of the answer, e.g. Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    #[command(flatten)]
    which: Which,
}

/// Which requests are meant, whenever they came.
#[derive(Debug, Args)]
struct Which {
    /// Only this endpoint; may be repeated, as all filters
    #[arg(long, value_name = "PATTERN")]
    endpoint: Vec<String>,
    /// Only this consumer; (none) for anonymous requests
    #[arg(long, value_name = "NAME")]
    consumer: Vec<String>,
    /// Only this key
    #[arg(long, value_name = "NAME")]
    key: Vec<String>,
    /// Only these statuses: 404, 5xx, 500-503
    #[arg(long, value_name = "STATUS")]
    status: Vec<String>,
    /// Only this service
    #[arg(long, value_name = "NAME")]
    service: Vec<String>,
    /// Only this instance
    #[arg(long, value_name = "ADDRESS")]
    instance: Vec<String>,
    /// Only this method
    #[arg(long, value_name = "METHOD")]
    method: Vec<String>,
    /// Only answers by `upstream`, `cache`, or a refusal such as `rate_limited`
    #[arg(long, value_name = "REASON")]
    decided_by: Vec<String>,
}

/// Which requests are followed.
#[derive(Debug, Args)]
pub(super) struct TailFilter {
    #[command(flatten)]
    which: Which,
    /// Only those that took at least so many milliseconds
    #[arg(long, value_name = "MS")]
    min_ms: Option<String>,
}

/// Names and values as they are given.
struct Given(Vec<(String, String)>);

impl Given {
    fn add(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        self.0.extend(values.into_iter().map(|value| (name.to_owned(), value)));
    }
}

impl TailFilter {
    /// As names and values.
    pub(super) fn pairs(self) -> Vec<(String, String)> {
        let mut given = Given(Vec::new());
        self.which.add_to(&mut given);
        given.add("min_ms", self.min_ms);
        given.0
    }
}

impl Which {
    fn add_to(self, given: &mut Given) {
        for (name, values) in [
            ("endpoint", self.endpoint),
            ("consumer", self.consumer),
            ("key", self.key),
            ("status", self.status),
            ("service", self.service),
            ("instance", self.instance),
            ("method", self.method),
            ("decided_by", self.decided_by),
        ] {
            given.add(name, values);
        }
    }
}

impl Filter {
    fn given(self) -> Given {
        let mut given = Given(Vec::new());
        for (name, value) in [("last", self.last), ("from", self.from), ("to", self.to), ("zone", self.zone)] {
            given.add(name, value);
        }
        self.which.add_to(&mut given);
        given
    }
}

/// `tollgate usage`
#[derive(Debug, Args)]
pub(super) struct Usage {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    filter: Filter,
    /// Told apart by: endpoint, consumer, key, status, service, instance, method, hour, day, decided_by [default: endpoint]
    #[arg(long, value_name = "WHAT,...")]
    by: Vec<String>,
    /// So many groups at most [default: 1000]
    #[arg(long, value_name = "N")]
    top: Option<String>,
    /// In this order: requests, errors, error_rate, blocked, average, p50, p95, p99, bytes_in, bytes_out, or what they are told apart by
    #[arg(long, value_name = "COLUMN")]
    sort: Option<String>,
    /// Also the window before, and the change since
    #[arg(long, value_name = "previous")]
    compare: Option<String>,
    /// The last hour, the last 24 hours and all time side by side
    #[arg(long)]
    summary: bool,
    /// table, json or csv [default: table]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Asks again every so many seconds, in place, until Ctrl-C [default: 2]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// `tollgate requests`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Requests {
    #[command(flatten)]
    list: List,
    #[command(subcommand)]
    command: Option<RequestsCommand>,
}

#[derive(Debug, clap::Subcommand)]
enum RequestsCommand {
    /// Every fact of the requests with an id
    #[command(after_help = "\
Ids are not unique: a trusted proxy may send one twice. All requests with the id are printed.

Example:
  tollgate requests show 0195cd21-7a4b-7cc3-98c4-dc0c0c07398f")]
    Show {
        /// As in the answer's header X-Request-Id
        id: Uuid,
        #[command(flatten)]
        file: File,
        /// table or json [default: table]
        #[arg(long, value_name = "FORMAT")]
        format: Option<String>,
    },
}

#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    file: File,
    #[command(flatten)]
    filter: Filter,
    /// Only those that took at least so many milliseconds
    #[arg(long, value_name = "MS")]
    min_ms: Option<String>,
    /// So many at most [default: 50]
    #[arg(long, value_name = "N")]
    limit: Option<String>,
    /// The next page: the cursor at the end of the page before
    #[arg(long, value_name = "CURSOR")]
    before: Option<String>,
    /// table, json or csv [default: table]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// `tollgate log audit`
#[derive(Debug, Args)]
pub(super) struct LogAudit {
    #[command(flatten)]
    file: File,
    /// table or json [default: table]
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Why there is no answer, and whose fault that is.
pub(super) enum Failure {
    Line(String),
    Log(String),
}

impl Failure {
    fn tell(self) -> ExitCode {
        match self {
            Self::Line(message) => {
                complain(&message);
                ExitCode::from(2)
            }
            Self::Log(message) => finish(Err(message)),
        }
    }
}

fn told(text: Result<String, Failure>) -> ExitCode {
    match text {
        Ok(text) => finish(Ok(text)),
        Err(failure) => failure.tell(),
    }
}

fn store(file: File) -> Result<StoreUrl, Failure> {
    let config = file.path().and_then(|path| commands::load(&path)).map_err(Failure::Log)?;
    Ok(config.log.store)
}

fn read(store: &StoreUrl) -> Result<Reader, Failure> {
    Reader::open(store, TIME_MAX).map_err(|why| Failure::Log(why.to_string()))
}

pub(super) fn usage(line: Usage) -> ExitCode {
    let watch = line.watch;
    let mut given = line.filter.given();
    given.add("by", line.by);
    for (name, value) in [("top", line.top), ("sort", line.sort), ("compare", line.compare), ("format", line.format)] {
        given.add(name, value);
    }
    given.add("summary", line.summary.then(|| "true".to_owned()));
    let (file, given) = (line.file, given.0);
    let Some(seconds) = watch else {
        return told(store(file).and_then(|store| usage_now(&store, &given, Style::of_stdout()).map(|(text, _)| text)));
    };
    if !std::io::stdout().is_terminal() {
        return Failure::Line("--watch draws on a terminal, and this is none: leave it out".to_owned()).tell();
    }
    match store(file) {
        Ok(store) => {
            let ask = || match usage_now(&store, &given, Style::of_stdout())? {
                (text, Format::Table) => Ok(text),
                _ => Err(Failure::Line("--watch draws tables: it does not go with --format".to_owned())),
            };
            draw(Duration::from_secs(seconds), ask).tell()
        }
        Err(failure) => failure.tell(),
    }
}

fn usage_now(store: &StoreUrl, given: &[(String, String)], style: Style) -> Result<(String, Format), Failure> {
    let now = Timestamp::now();
    let parameters = Parameters::new(given.to_vec());
    let (question, format) = question(parameters, &Format::ALL, usage::Question::take, now).map_err(Failure::Line)?;
    let answer = question.answer(&mut read(store)?, now).map_err(|why| Failure::Log(why.to_string()))?;
    let text = match format {
        Format::Table => answer.table(style),
        Format::Json => answer.json() + "\n",
        Format::Csv => answer.csv(std::io::stdout().is_terminal()),
    };
    Ok((text, format))
}

pub(super) fn requests(line: Requests) -> ExitCode {
    match line.command {
        Some(RequestsCommand::Show { id, file, format }) => told(show(id, file, format)),
        None => told(list(line.list)),
    }
}

fn list(line: List) -> Result<String, Failure> {
    let mut given = line.filter.given();
    for (name, value) in
        [("min_ms", line.min_ms), ("limit", line.limit), ("before", line.before), ("format", line.format)]
    {
        given.add(name, value);
    }
    let parameters = Parameters::new(given.0);
    let (question, format) =
        question(parameters, &Format::ALL, requests::Question::take, Timestamp::now()).map_err(Failure::Line)?;
    let store = store(line.file)?;
    let page = question.answer(&mut read(&store)?).map_err(|why| Failure::Log(why.to_string()))?;
    Ok(match format {
        Format::Table => page.table(Style::of_stdout()),
        Format::Json => page.json() + "\n",
        Format::Csv => page.csv(std::io::stdout().is_terminal()),
    })
}

fn show(id: Uuid, file: File, format: Option<String>) -> Result<String, Failure> {
    let is_json = is_json(format)?;
    let store = store(file)?;
    let page = Page::with_id(&mut read(&store)?, id).map_err(|why| Failure::Log(why.to_string()))?;
    if page.requests.is_empty() {
        return Err(Failure::Log(format!("there is no request {id} in the log, or no longer")));
    }
    Ok(if is_json { page.json() + "\n" } else { page.facts() })
}

/// Exit code 1 when there is a finding, and 2 when there is no audit: who watches the one must not take the other for it.
pub(super) fn log_audit(line: LogAudit) -> ExitCode {
    let audit = is_json(line.format).and_then(|is_json| {
        let store = store(line.file)?;
        let audit = Audit::of(&mut read(&store)?, Timestamp::now()).map_err(|why| Failure::Log(why.to_string()))?;
        Ok((if is_json { audit.json() + "\n" } else { audit.table(Style::of_stdout()) }, audit.is_clean()))
    });
    match audit {
        Ok((text, is_clean)) => {
            if finish(Ok(text)) == ExitCode::FAILURE {
                ExitCode::from(2)
            } else if is_clean {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(Failure::Line(message) | Failure::Log(message)) => {
            complain(&message);
            ExitCode::from(2)
        }
    }
}

fn is_json(format: Option<String>) -> Result<bool, Failure> {
    match format.as_deref() {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Failure::Line(format!("format: `{other}` is neither table nor json"))),
    }
}
