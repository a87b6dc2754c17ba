//! The page: a report as Markdown for people who did not see the run, with machine, versions, date and command.
//! Its words are a template; what is in double braces there is filled in here.

use std::io;

use crate::report::tables::{Style, tables};
use crate::report::{Program, Report};

const TEMPLATE: &str = include_str!("../../performance.md.template");

/// `balance` is the section about one slow instance, which is measured by itself.
pub fn page(report: &Report, balance: Option<String>) -> io::Result<String> {
    let mut values = values(report);
    values.push(("balance", balance.unwrap_or_else(|| "Not measured beside this run: `loadtest balance`.".to_owned())));
    fill(TEMPLATE, &values)
}

/// The same facts in front of the tables on a terminal.
pub fn text(report: &Report) -> String {
    let programs: Vec<String> =
        report.programs.iter().map(|program| format!("{}: {}", program.name, program.version)).collect();
    format!(
        "{}\n{}\n{}, {} connections, medians of {} rounds of {} s, ratios within a round\n\n{}",
        machine(report),
        programs.join("\n"),
        report.taken,
        report.settings.connections,
        report.settings.rounds,
        report.settings.seconds,
        tables(report, Style::Text)
    )
}

fn values(report: &Report) -> Vec<(&'static str, String)> {
    let settings = &report.settings;
    vec![
        ("machine", machine(report)),
        ("taken", report.taken.clone()),
        ("command", report.command.clone()),
        ("connections", settings.connections.to_string()),
        ("rounds", settings.rounds.to_string()),
        ("seconds", settings.seconds.to_string()),
        ("programs", report.programs.iter().map(program).collect::<Vec<_>>().join("\n")),
        ("tables", tables(report, Style::Markdown).trim_end().to_owned()),
    ]
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let ram = machine.ram_bytes as f64 / f64::from(1 << 30);
    format!(
        "{}, {} cores, {ram:.0} GiB of memory; {}, Linux {}; load average {:.1} before the run.",
        machine.cpu, machine.cores, machine.system, machine.kernel, machine.load_average
    )
}

fn program(program: &Program) -> String {
    format!("- {}: {}", program.name, program.version)
}

/// Every `{{name}}` replaced. A name without value is a mistake in the template.
fn fill(template: &str, values: &[(&str, String)]) -> io::Result<String> {
    let mut parts = template.split("{{");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        let (_, value) =
            value.ok_or_else(|| io::Error::other(format!("the template has no value for {{{{{name}}}}}")))?;
        text.extend([value, rest]);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_filled_in() {
        let values = [("a", "1".to_owned()), ("b", "{2}".to_owned())];
        assert_eq!(fill("x {{a}} y {{b}}{{a}}\n", &values).unwrap(), "x 1 y {2}1\n");
        assert!(fill("{{c}}", &values).unwrap_err().to_string().contains("{{c}}"));
        assert!(fill("{{a", &values).is_ok_and(|text| text == "1"));
    }
}
