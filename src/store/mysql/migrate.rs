//! The tables of a MySQL or MariaDB database: what lacks, how it is made, and what a user may do. The server's lock of the
//! database's name is held meanwhile, so that two gateways that start at once wait for each other. A server can't undo a
//! change of a table, so a migration that was cut off is run again, and what is there already is passed over.

use std::time::{Duration, SystemTime};

use super::super::migrations::{APPLIED, MYSQL, MYSQL_KEYS, Migration, Plan, VIEW, tables, view};
use super::super::{Failure, Moment};
use super::failure::{Meaning, meaning};
use super::link::{Link, date, value};
use super::{ask, options, partitions};

/// How long another gateway may take that is at it already.
const LOCK_TIMEOUT: Duration = Duration::from_secs(8);

const LOCK_NAME: &str = "CONCAT('tollgate.', MD5(DATABASE()))";

/// Table, column or row is there already: an earlier try was cut off behind it.
const THERE_ALREADY: [u16; 3] = [1050, 1060, 1062];

/// What lacks of these migrations, and whether the view is there.
async fn plan(link: &mut Link, all: &[Migration]) -> Result<(Plan, bool), Failure> {
    let sql = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
    let names: Vec<String> = link.text_rows(sql).await?.iter().filter_map(|row| value(row, 0)).collect();
    let exists = |name: &str| names.iter().any(|one| one == name);
    let mut applied = Vec::new();
    if exists(APPLIED) {
        let rows = link.text_rows("SELECT version FROM log_migrations").await?;
        applied = rows.iter().filter_map(|row| value(row, 0)).collect();
    }
    Ok((Plan::of(all, &applied, exists), exists(VIEW)))
}

/// Makes what lacks; what was done, a line each.
pub(super) async fn apply(link: &mut Link) -> Result<Vec<String>, Failure> {
    let (plan_before, has_view) = plan(link, MYSQL).await?;
    if plan_before.is_empty() && has_view {
        return Ok(Vec::new());
    }
    if !lock(link, LOCK_TIMEOUT).await? {
        return Err(Failure::Away(format!("{}: another gateway is making the tables", link.server)));
    }
    let (plan, has_view) = plan(link, MYSQL).await?;
    if !plan.is_empty() {
        make(link, &plan, MYSQL).await?;
    }
    let mut done = plan.done();
    if plan.missing.contains(&"api_logs") || !plan.new.is_empty() {
        done.extend(partitions::begin(link, SystemTime::now()).await?);
    }
    if let Some(view) = view(MYSQL).filter(|_| !has_view) {
        match link.change(view).await? {
            Ok(()) => done.push(format!("view {VIEW} made")),
            Err((code, _)) if THERE_ALREADY.contains(&code) => {}
            // The log works without it.
            Err((code, _)) => log::warn!("request log: the view {VIEW} can't be made: error {code}"),
        }
    }
    unlock(link).await?;
    Ok(done)
}

/// Makes what lacks of these migrations, without the view.
pub(super) async fn apply_only(link: &mut Link, all: &[Migration]) -> Result<(), Failure> {
    if plan(link, all).await?.0.is_empty() {
        return Ok(());
    }
    if !lock(link, LOCK_TIMEOUT).await? {
        return Err(Failure::Away(format!("{}: another gateway is making the tables", link.server)));
    }
    let (plan, _) = plan(link, all).await?;
    if !plan.is_empty() {
        make(link, &plan, all).await?;
    }
    unlock(link).await
}

async fn make(link: &mut Link, plan: &Plan, all: &[Migration]) -> Result<(), Failure> {
    let applied = "CREATE TABLE IF NOT EXISTS log_migrations (
        version INT UNSIGNED NOT NULL, name VARCHAR(64) NOT NULL, applied_at DATETIME(6) NOT NULL, PRIMARY KEY (version)
      ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin";
    for statement in [applied].into_iter().chain(plan.statements()) {
        match link.change(statement).await? {
            Ok(()) => {}
            Err((code, _)) if THERE_ALREADY.contains(&code) => {}
            Err((code, text)) => return Err(refused(&link.server, plan, code, &text)),
        }
    }
    for one in all {
        let values = vec![one.version.into(), one.name.into(), date(Moment::of(SystemTime::now()))];
        let sql = "INSERT INTO log_migrations (version, name, applied_at) VALUES (?, ?, ?)
                   ON DUPLICATE KEY UPDATE version = version";
        link.run(sql, values).await?;
    }
    Ok(())
}

fn refused(server: &str, plan: &Plan, code: u16, text: &str) -> Failure {
    let lacking = plan.lacking();
    match meaning(code) {
        Meaning::Denied => Failure::Denied(format!(
            "{server}: missing: {lacking}; this user may not make it (error {code}): \
             run `tollgate log migrate -c ...` as a user who may"
        )),
        Meaning::Away => Failure::Away(format!("{server}: making {lacking}: error {code}: {text}")),
        Meaning::Row => Failure::Denied(format!("{server}: making {lacking}: error {code}: {text}")),
    }
}

/// Takes the server's lock of this database; false when it is held for longer than that.
pub(super) async fn lock(link: &mut Link, wait: Duration) -> Result<bool, Failure> {
    let sql = format!("SELECT GET_LOCK({LOCK_NAME}, {})", wait.as_secs());
    Ok(link.first::<i64>(&sql, vec![]).await? == Some(1))
}

/// Gives it back.
pub(super) async fn unlock(link: &mut Link) -> Result<(), Failure> {
    link.text(&format!("DO RELEASE_LOCK({LOCK_NAME})")).await
}

/// What is there, without changing anything; see [`super::super::probe`].
pub fn probe(url: &str) -> Result<Vec<String>, String> {
    let (options, server) = options(url)?;
    let (found, lacking) = ask(async {
        let mut link = Link::open(&options, &server).await?;
        look(&mut link).await
    })?;
    if lacking.is_empty() { Ok(found) } else { Err(format!("{server}: {}", lacking.join("; "))) }
}

/// Whether the server answers; see [`super::super::keys::probe`].
pub fn probe_connection(url: &str) -> Result<String, String> {
    let (options, server) = options(url)?;
    ask(async { Link::open(&options, &server).await.map(|_| format!("{server}: connected")) })
}

/// What was found, and what is lacking.
async fn look(link: &mut Link) -> Result<(Vec<String>, Vec<String>), Failure> {
    let version: Option<String> = link.first("SELECT VERSION()", vec![]).await?;
    let mut found = vec![format!("{}: connected, version {}", link.server, version.unwrap_or_default())];
    let mut lacking = Vec::new();
    let (plan, _) = plan(link, MYSQL).await?;
    if plan.is_empty() {
        // Keys are the key store's, which may be elsewhere.
        for table in tables(MYSQL).filter(|table| !tables(MYSQL_KEYS).any(|of_keys| of_keys == *table)) {
            for right in ["SELECT", "INSERT", "UPDATE", "DELETE"] {
                if let Some(code) = denied(link, right, table).await? {
                    match right {
                        "DELETE" => found.push(format!(
                            "the right DELETE on {table} is missing (error {code}): log.retention has no effect there"
                        )),
                        _ => lacking.push(format!("the right {right} on {table} is missing (error {code})")),
                    }
                }
            }
        }
        return Ok((found, lacking));
    }
    let grants = link.text_rows("SHOW GRANTS").await?;
    let grants: Vec<String> = grants.iter().filter_map(|row| value(row, 0)).collect();
    let needed = if plan.new.iter().any(|one| one.version > 1) { &["CREATE", "ALTER"][..] } else { &["CREATE"] };
    match needed.iter().find(|right| !may(&grants, right)) {
        None => found.push(format!("{} do not exist yet: start creates them", plan.lacking())),
        Some(right) => lacking.push(format!(
            "missing: {}, and this user has no right to {right}: run `tollgate log migrate -c ...` as a user who may",
            plan.lacking()
        )),
    }
    Ok((found, lacking))
}

/// The error when this user lacks a right. Explaining a statement needs the rights of the statement, and changes nothing.
async fn denied(link: &mut Link, right: &str, table: &str) -> Result<Option<u16>, Failure> {
    let column = match table {
        "log_retention" => "what",
        "limit_counters" => "gateway",
        _ => "run",
    };
    let statement = match right {
        "INSERT" => format!("EXPLAIN INSERT INTO {table} SELECT * FROM {table}"),
        "UPDATE" => format!("EXPLAIN UPDATE {table} SET {column} = 0 WHERE {column} = 0"),
        "DELETE" => format!("EXPLAIN DELETE FROM {table} WHERE {column} = 0"),
        _ => format!("EXPLAIN SELECT {column} FROM {table}"),
    };
    match link.change(&statement).await? {
        Ok(()) => Ok(None),
        Err((code, _)) if meaning(code) == Meaning::Denied => Ok(Some(code)),
        Err((code, text)) => Err(Failure::Away(format!("{}: error {code}: {text}", link.server))),
    }
}

/// Whether one of the grants, or a role that can't be looked into, may hold a right.
fn may(grants: &[String], right: &str) -> bool {
    grants.iter().any(|grant| {
        let rights = grant.strip_prefix("GRANT ").unwrap_or(grant);
        match rights.split_once(" ON ") {
            Some((rights, _)) => rights.split(',').map(str::trim).any(|one| one == right || one == "ALL PRIVILEGES"),
            None => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_found_among_the_grants() {
        let check = |grant: &str| may(&[grant.to_owned()], "CREATE");
        assert!(check("GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost`"));
        assert!(check("GRANT SELECT, INSERT, CREATE ON `tollgate`.* TO `a`@`%`"));
        assert!(!check("GRANT SELECT, CREATE VIEW ON `tollgate`.* TO `a`@`%`"));
        assert!(!check("GRANT USAGE ON *.* TO `a`@`%`"));
    }

    #[test]
    fn who_may_not_is_told_who_could() {
        let plan = Plan::of(MYSQL, &[], |_| false);
        let Failure::Denied(message) = refused("db:3306/log", &plan, 1142, "") else { panic!() };
        for part in
            ["migration 0002_ledger_and_usage", "log_batches", "run `tollgate log migrate -c ...` as a user who may"]
        {
            assert!(message.contains(part), "{message}");
        }
    }
}
