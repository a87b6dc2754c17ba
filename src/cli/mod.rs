//! The command line: what can be asked, and which part answers. Help texts teach by examples.
//! Exit codes: 0 done, 1 it did not work (and why is said), 2 the command line was not understood. Where 1 is an answer (log
//! audit), 2 is also that there is none.
//! Results go to stdout, everything else to stderr. Not here: what the answers are made of.

mod cache;
mod commands;
mod keys;
mod logging;
mod questions;
mod reload;
mod request_log;
mod running;
mod tail;
mod version;
mod watch;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use logging::{Format, Level};

/// Where a configuration is looked for when none is named.
const CONFIGURATIONS: [&str; 2] = ["conf/tollgate.yaml", "/etc/tollgate/tollgate.yaml"];

/// An API gateway in one binary: keys, limits, balancing, caching, and every request accounted for in SQL.
#[derive(Debug, Parser)]
#[command(name = "tollgate", disable_version_flag = true, arg_required_else_help = true, after_help = EXAMPLES)]
struct Line {
    #[command(subcommand)]
    command: Option<Command>,
    /// What this binary was built from
    #[arg(short = 'V', long)]
    version: bool,
    /// How much the program says on stderr: error, warn, info, debug or trace [default: info]
    #[arg(long, global = true, value_enum, value_name = "LEVEL", hide_possible_values = true)]
    log_level: Option<Level>,
    /// How it says it: plain or json [default: plain]
    #[arg(long, global = true, value_enum, value_name = "FORMAT", hide_possible_values = true)]
    log_format: Option<Format>,
}

const EXAMPLES: &str = "\
Examples:
  tollgate check -c conf/tollgate.yaml     say everything that is wrong with a configuration
  tollgate run -c conf/tollgate.yaml       serve it
  tollgate keys new acme                   make a key for the consumer acme
  tollgate reload                          let the running gateway read its file again
  tollgate usage --last 1h                 requests, errors and latency per endpoint

The smallest configuration:
  listen: 127.0.0.1:8080
  admin: 127.0.0.1:8081
  services:
    users: [127.0.0.1:9101, 127.0.0.1:9102]
  routes:
    /api/users/*: {to: users, keys: none}
  log: sqlite:tollgate.db";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or Ctrl-C; SIGHUP reads the configuration again
    #[command(after_help = "\
Examples:
  tollgate run                                   conf/tollgate.yaml, then /etc/tollgate/tollgate.yaml
  tollgate run -c edge.yaml --log-format json    messages for a log collector (also TOLLGATE_LOG_FORMAT)
  tollgate run --log-level debug                 each step (also TOLLGATE_LOG_LEVEL, RUST_LOG)
  DB_PASSWORD=... tollgate run -c edge.yaml      a variable, ${DB_PASSWORD} in the file")]
    Run(File),
    /// Reads, resolves and compiles everything that start does, and changes nothing
    #[command(after_help = "\
Every problem is one line, `file:line:column path: message`. Exit code 0 when there is none, otherwise 1.

Examples:
  tollgate check
  tollgate check -c edge.yaml --connect          also tries the request log's database")]
    Check {
        #[command(flatten)]
        file: File,
        /// Also try the stores, and say what is missing there
        #[arg(long)]
        connect: bool,
    },
    /// The configuration in its long form, and its grammar
    #[command(
        subcommand,
        after_help = "\
Examples:
  tollgate config dump -c edge.yaml                      with every default
  tollgate config schema > tollgate.schema.json          for editors"
    )]
    Config(ConfigCommand),
    /// Lets the running gateway read its configuration again; with any problem the old one serves on
    #[command(after_help = "\
Asks `POST /admin/reload` at the admin address of the configuration, or at --admin.
Beyond loopback the admin listener wants a token, taken from TOLLGATE_ADMIN_TOKEN.

Examples:
  tollgate reload
  tollgate reload --admin 127.0.0.1:8081")]
    Reload {
        #[command(flatten)]
        gateway: Gateway,
    },
    /// The request log: where it stands, whether its database accounts for every record, its tables
    #[command(
        subcommand,
        after_help = "\
Examples:
  tollgate log status                      every record accounted for, asked of the running gateway
  tollgate log audit -c edge.yaml          the same from the database alone"
    )]
    Log(LogCommand),
    /// What the running gateway has stored, and how it is purged
    #[command(
        subcommand,
        after_help = "\
Examples:
  tollgate cache show https://shop.example/img/a.png     what is stored of it, how fresh and why
  tollgate cache purge --tag product-17                  by Surrogate-Key or Cache-Tag"
    )]
    Cache(cache::CacheCommand),
    /// Makes keys, and what becomes of them
    #[command(
        subcommand,
        after_help = "\
Examples:
  tollgate keys new acme-2026 --consumer acme            shows it once
  tollgate keys rotate acme-2026 --for 30d               another one; the old one is valid for a while"
    )]
    Keys(keys::KeysCommand),
    /// Requests, errors and latency by endpoint, consumer, key and more, from the request log
    #[command(after_help = "\
Read from the roll-ups, in whole minutes. The admin API answers the same at /admin/usage.

Examples:
  tollgate usage                                      the last 24 hours by endpoint
  tollgate usage --last 1h --by key --status 5xx      whose requests failed
  tollgate usage --by day,endpoint --last 7d --format csv
  tollgate usage --from 2026-03-01 --to 2026-04-01 --zone Europe/Berlin --by consumer --top 10
  tollgate usage --last 1h --compare previous         against the hour before
  tollgate usage --last 15m --watch")]
    Usage(questions::Usage),
    /// Single requests from the request log, the newest first
    #[command(after_help = "\
Examples:
  tollgate requests --status 5xx --last 1h
  tollgate requests --consumer acme --min-ms 500 --limit 200 --format csv
  tollgate requests show 0195cd21-7a4b-7cc3-98c4-dc0c0c07398f")]
    Requests(questions::Requests),
    /// Requests as they come, from the running gateway, until Ctrl-C
    #[command(after_help = "\
Beyond loopback the admin listener wants a token, taken from TOLLGATE_ADMIN_TOKEN.

Examples:
  tollgate tail
  tollgate tail --status 5xx --min-ms 100
  tollgate tail --consumer acme --json")]
    Tail {
        #[command(flatten)]
        gateway: Gateway,
        #[command(flatten)]
        filter: questions::TailFilter,
        /// One JSON line a request, as in `log.json`
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Args)]
struct File {
    /// The configuration [default: conf/tollgate.yaml, then /etc/tollgate/tollgate.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The running gateway that is asked.
#[derive(Debug, Args)]
struct Gateway {
    #[command(flatten)]
    file: File,
    /// Address of the admin listener, instead of the configuration's
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<std::net::SocketAddr>,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Asks the running gateway: every record accounted for, at this moment
    #[command(after_help = "\
Exit code 1 when the store is away, or a record is not accounted for.
Beyond loopback the admin listener wants a token, taken from TOLLGATE_ADMIN_TOKEN.

Examples:
  tollgate log status
  tollgate log status --json --admin 127.0.0.1:8081")]
    Status {
        #[command(flatten)]
        gateway: Gateway,
        /// JSON, as `GET /admin/log` answers
        #[arg(long)]
        json: bool,
    },
    /// Brings the tables of the log's database up to date; start does it too, where it may
    #[command(after_help = "\
For gateways whose database user may not create or alter tables: run it once as a user who may.

Example:
  DB_PASSWORD=... tollgate log migrate -c edge.yaml")]
    Migrate(File),
    /// Whether the database accounts for every record of every run; exit code 1 when something is not explained
    #[command(after_help = "\
Reads the ledger, the checkpoints and every row; changes nothing, and asks no gateway.
Exit code 0 when every record is accounted for, 1 when there are findings, 2 when the log could not be read.

Examples:
  tollgate log audit
  tollgate log audit -c edge.yaml --format json")]
    Audit(questions::LogAudit),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Prints the long form with every default; passwords and values of variables are not shown
    #[command(after_help = "Example:\n  tollgate config dump -c conf/tollgate.yaml")]
    Dump(File),
    /// Prints the JSON Schema of the configuration, for editors
    #[command(after_help = "\
Example:
  tollgate config schema > tollgate.schema.json
  and in the first line of the configuration: # yaml-language-server: $schema=tollgate.schema.json")]
    Schema,
}

impl File {
    /// The named file, or the first of the usual ones.
    fn path(self) -> Result<PathBuf, String> {
        if let Some(path) = self.config {
            return Ok(path);
        }
        CONFIGURATIONS.iter().map(Path::new).find(|path| path.exists()).map(Path::to_path_buf).ok_or_else(|| {
            format!(
                "no configuration: neither {} nor {} exists; name one with -c FILE",
                CONFIGURATIONS[0], CONFIGURATIONS[1]
            )
        })
    }
}

impl Gateway {
    fn find(self) -> Result<running::Running, String> {
        running::Running::find(|| self.file.path(), self.admin)
    }
}

fn log(command: LogCommand) -> ExitCode {
    match command {
        LogCommand::Status { gateway, json } => {
            match gateway.find().and_then(|gateway| request_log::status(&gateway, json)) {
                Ok((text, is_well)) => {
                    let printed = finish(Ok(text));
                    if is_well { printed } else { ExitCode::FAILURE }
                }
                Err(message) => finish(Err(message)),
            }
        }
        LogCommand::Audit(line) => questions::log_audit(line),
        LogCommand::Migrate(file) => finish(file.path().and_then(|path| request_log::migrate(&path))),
    }
}

/// Runs what the process was started with.
pub fn main() -> ExitCode {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Err(message) = logging::start(line.log_level, line.log_format) {
        complain(&message);
        return ExitCode::from(2);
    }
    if line.version {
        return finish(Ok(version::text()));
    }
    let Some(command) = line.command else {
        complain("a command is missing: see tollgate --help");
        return ExitCode::from(2);
    };
    match command {
        Command::Run(file) => match file.path() {
            Ok(path) => crate::server::run(&path),
            Err(message) => finish(Err(message)),
        },
        Command::Check { file, connect } => finish(file.path().and_then(|path| commands::check(&path, connect))),
        Command::Config(ConfigCommand::Dump(file)) => finish(file.path().and_then(|path| commands::dump(&path))),
        Command::Config(ConfigCommand::Schema) => finish(Ok(crate::config::json_schema())),
        Command::Reload { gateway } => finish(gateway.find().and_then(|gateway| reload::reload(&gateway))),
        Command::Log(command) => log(command),
        Command::Cache(command) => cache::run(command),
        Command::Keys(command) => keys::run(command),
        Command::Usage(line) => questions::usage(line),
        Command::Tail { gateway, filter, json } => match gateway.find() {
            Ok(gateway) => tail::tail(&gateway, &filter.pairs(), json),
            Err(message) => finish(Err(message)),
        },
        Command::Requests(line) => questions::requests(line),
    }
}

/// Prints a result, or why there is none.
fn finish(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(text) => {
            let mut out = std::io::stdout().lock();
            // A reader that left, as in `| head`, is no failure of the command.
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    complain(&format!("cannot write: {error}"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(message) => {
            complain(&message);
            ExitCode::FAILURE
        }
    }
}

fn complain(message: &str) {
    let _ = writeln!(std::io::stderr(), "{}", message.trim_end());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    /// Commands and groups of them, however deep; not what clap adds.
    fn each(command: &clap::Command, see: &mut impl FnMut(&clap::Command)) {
        for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
            see(below);
            each(below, see);
        }
    }

    #[test]
    fn every_help_has_an_example_and_says_little_of_the_log_options() {
        let mut line = Line::command();
        line.build();
        each(&line, &mut |command| {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{} has no example:\n{help}", command.get_name());
            // What each of their words means is in the docs: it took more room than the command's own options.
            assert!(!help.contains("Start, stop, reload"), "{}:\n{help}", command.get_name());
        });
    }

    #[test]
    fn options_may_stand_behind_the_command() {
        let line = Line::try_parse_from(["tollgate", "run", "-c", "x.yaml", "--log-level", "debug"]);
        assert_eq!(line.map(|line| line.log_level).ok().flatten(), Some(Level::Debug));
    }

    #[test]
    fn questions_are_read_as_they_are_written() {
        for line in [
            "tollgate usage --last 2h --by key,day --by status --watch",
            "tollgate usage --watch=5 --compare previous --endpoint /a --endpoint /b",
            "tollgate requests --status 5xx --min-ms 10 --before 00",
            "tollgate requests show 0195cd21-7a4b-7cc3-98c4-dc0c0c07398f -c x.yaml --format json",
            "tollgate log audit -c x.yaml",
            "tollgate keys new acme-2026 --consumer acme --label a --label b --expires 2027-01-01",
            "tollgate keys rotate acme --for 30d -c x.yaml --format json",
            "tollgate keys expire acme --in 30d",
            "tollgate keys unused --for 90d",
            "tollgate cache purge --tag a --soft --admin 127.0.0.1:1",
            "tollgate cache purge --all --json",
            "tollgate cache stats --top 3 --json",
            "tollgate cache show http://a/b -c x.yaml",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "tollgate usage --watch=0",
            "tollgate usage --nonsense",
            "tollgate keys expire acme",
            "tollgate cache purge",
            "tollgate cache purge --all --tag a",
            "tollgate keys expire acme --never --in 30d",
            "tollgate keys rotate acme --for soon",
            "tollgate requests show nonsense",
            "tollgate requests --limit 5 show 0195cd21-7a4b-7cc3-98c4-dc0c0c07398f",
        ] {
            assert!(Line::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn the_example_of_the_help_is_a_configuration() {
        let text: String = EXAMPLES
            .lines()
            .skip_while(|line| !line.starts_with("  listen"))
            .map(|line| format!("{}\n", &line[2..]))
            .collect();
        let read = crate::config::read(&text, Path::new("/x/tollgate.yaml"), &|_| None);
        assert!(read.is_ok(), "{}", read.err().unwrap_or_default());
    }
}
