//! The tables of a SQLite file: what lacks, and how it is made. One immediate transaction around it, so that two gateways
//! that start at once wait for each other, and a migration is there as a whole or not at all.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::{Connection, Error, OptionalExtension, params};

use super::super::Moment;
use super::super::migrations::{APPLIED, Migration, Plan, SQLITE, VIEW, tables, view};
use super::open_to_read;

/// What lacks of these migrations.
fn plan(connection: &Connection, all: &[Migration]) -> Result<Plan, Error> {
    let mut applied = Vec::new();
    if exists(connection, APPLIED)? {
        let mut statement = connection.prepare("SELECT version FROM log_migrations")?;
        applied = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    }
    let mut there = Vec::new();
    for name in tables(all) {
        if exists(connection, name)? {
            there.push(name);
        }
    }
    Ok(Plan::of(all, &applied, |name| there.contains(&name)))
}

fn exists(connection: &Connection, name: &str) -> Result<bool, Error> {
    let found = connection.query_row("SELECT 1 FROM sqlite_schema WHERE name = ?1", [name], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

/// Makes what lacks; what was done, a line each. The caller holds the transaction.
pub(super) fn apply(connection: &Connection) -> Result<Vec<String>, Error> {
    let mut done = apply_only(connection, SQLITE)?;
    if let Some(view) = view(SQLITE).filter(|_| !matches!(exists(connection, VIEW), Ok(true))) {
        connection.execute_batch(view)?;
        done.push(format!("view {VIEW} made"));
    }
    Ok(done)
}

/// Makes what lacks of these migrations, without the view. The caller holds the transaction.
pub(super) fn apply_only(connection: &Connection, all: &[Migration]) -> Result<Vec<String>, Error> {
    let plan = plan(connection, all)?;
    if !plan.is_empty() {
        for statement in plan.statements() {
            connection.execute_batch(statement)?;
        }
    }
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS log_migrations (
           version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL
         )",
    )?;
    let now = Moment::of(SystemTime::now()).to_string();
    for one in all {
        connection.prepare_cached("INSERT OR IGNORE INTO log_migrations VALUES (?1, ?2, ?3)")?.execute(params![
            one.version,
            one.name,
            now
        ])?;
    }
    Ok(plan.done())
}

/// Whether nothing lacks of these migrations.
pub(super) fn is_complete(connection: &Connection, all: &[Migration]) -> Result<bool, Error> {
    plan(connection, all).map(|plan| plan.is_empty())
}

/// What is there, without creating anything; see [`super::super::probe`].
pub fn probe(path: &Path) -> Result<Vec<String>, String> {
    if !path.exists() {
        let above = path.ancestors().skip(1).find(|folder| folder.exists());
        let above = above.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let metadata = std::fs::metadata(above).map_err(|error| format!("{}: {error}", above.display()))?;
        if !metadata.is_dir() {
            return Err(format!("{}: {} is not a folder", path.display(), above.display()));
        }
        return Ok(vec![format!("{} does not exist yet: start creates it", path.display())]);
    }
    let connection = open_to_read(path)?;
    let plan = plan(&connection, SQLITE).map_err(|error| format!("{}: {error}", path.display()))?;
    if std::fs::OpenOptions::new().append(true).open(path).is_err() {
        return Err(format!("{} can't be written by this user", path.display()));
    }
    let mut found = vec![format!("{} can be opened", path.display())];
    if !plan.is_empty() {
        found.push(format!("{} do not exist yet: start creates them", plan.lacking()));
    }
    Ok(found)
}
