//! The comparison: every contender with the same job, in turns, checked before and after.
//! `bench` is the place, `proof` the checks before, `measure` one measurement with the checks after, `group` the rounds.

mod bench;
mod group;
mod measure;
mod progress;
mod proof;

use std::error::Error;
use std::path::PathBuf;

use crate::contender::Contender;
use crate::contenders;
use crate::job::{Kind, Row};
use crate::machine::Machine;
use crate::programs::Core;
use crate::report::{Program, Report, RowReport, Settings};
use bench::Bench;
pub use group::DIRECT;
use progress::Progress;

/// What is to be measured, and how.
pub struct Plan {
    pub tollgate: PathBuf,
    /// Rows of a group are measured in the same rounds.
    pub groups: Vec<Vec<&'static Row>>,
    /// Names of contenders; all when empty.
    pub only: Vec<String>,
    pub settings: Settings,
    pub command: String,
}

/// Contenders that are installed have a version.
pub struct Entrant {
    pub contender: Box<dyn Contender>,
    pub version: Result<String, String>,
}

impl Entrant {
    fn program(&self) -> Program {
        let (is_installed, version) = match &self.version {
            Ok(version) => (true, version.clone()),
            Err(why) => (false, format!("not installed: {why}")),
        };
        Program { name: self.contender.name().to_owned(), is_installed, version }
    }
}

/// Runs a plan. What fails is in the report, beside what did not.
pub fn run(mut plan: Plan) -> Result<Report, Box<dyn Error>> {
    let machine = Machine::read();
    let entrants = entrants(&plan)?;
    let kinds: Vec<Kind> = plan.groups.iter().flatten().map(|row| row.ask.kind).collect();
    let bench = Bench::start(&mut plan.settings, &kinds)?;
    let mut progress = Progress::new(group::weight(&plan, entrants.len()));
    let mut rows: Vec<RowReport> = Vec::new();
    for group in &plan.groups {
        rows.extend(group::run(&bench, &plan, group, &entrants, &mut progress));
    }
    progress.finish();
    let mut programs: Vec<Program> = entrants.iter().map(Entrant::program).collect();
    programs.extend(bench.tools()?);
    let taken = jiff::Zoned::now().strftime("%Y-%m-%d").to_string();
    let mut report = Report { taken, command: plan.command, machine, settings: plan.settings, programs, rows };
    report.compute();
    Ok(report)
}

/// Those that were asked for, in the order of the tables. A tollgate that does not run is an error; any other is shown as missing.
fn entrants(plan: &Plan) -> Result<Vec<Entrant>, Box<dyn Error>> {
    let all = contenders::all(plan.tollgate.clone());
    let names: Vec<&str> = all.iter().map(|contender| contender.name()).collect();
    if let Some(unknown) = plan.only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("no contender named `{unknown}`; there are {}", names.join(", ")).into());
    }
    let mut entrants = Vec::new();
    for contender in all {
        let name = contender.name();
        if !plan.only.is_empty() && !plan.only.iter().any(|only| only == name) {
            continue;
        }
        let version = contender.version().map_err(|error| error.to_string());
        if let (contenders::TOLLGATE, Err(error)) = (name, &version) {
            return Err(error.clone().into());
        }
        entrants.push(Entrant { contender, version });
    }
    if Core::Proxy.number().is_none() {
        eprintln!(
            "there is one core only: the proxy, its load and its upstream share it, and figures are worse for it"
        );
    }
    Ok(entrants)
}
