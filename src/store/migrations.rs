//! The numbered migrations of both stores, and their statements. What was applied stands in `log_migrations`.
//! Tables that were dropped are made anew: then only the statements about these run again. No connection here.

/// A step from one version of the tables to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// From 1.
    pub version: u32,
    /// The file's name without its ending.
    pub name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($version:literal $store:literal $name:literal),* $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../conf/sql/", $store, "/", $name, ".sql")),
        }),*]
    };
}

/// Those of SQLite.
pub const SQLITE: &[Migration] = migrations![
    1 "sqlite" "0001_request_log",
    2 "sqlite" "0002_ledger_and_usage",
    3 "sqlite" "0003_usage_outlines",
    4 "sqlite" "0004_limit_counters",
    5 "sqlite" "0005_keys",
    6 "sqlite" "0006_usage_by_outline",
];

/// Those of MySQL and MariaDB.
pub const MYSQL: &[Migration] = migrations![
    1 "mysql" "0001_request_log",
    2 "mysql" "0002_ledger_and_usage",
    3 "mysql" "0003_usage_outlines",
    4 "mysql" "0004_limit_counters",
    5 "mysql" "0005_keys",
    6 "mysql" "0006_usage_by_outline",
];

/// What a key store of its own needs of them.
pub const SQLITE_KEYS: &[Migration] = migrations![5 "sqlite" "0005_keys"];

/// The same in a server.
pub const MYSQL_KEYS: &[Migration] = migrations![5 "mysql" "0005_keys"];

/// The table of what was applied.
pub const APPLIED: &str = "log_migrations";

/// The view over `api_logs`; the log works without it.
pub const VIEW: &str = "api_logs_readable";

/// What to do for a store that lacks something.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Migrations that were never applied.
    pub new: Vec<Migration>,
    /// Tables that do not exist.
    pub missing: Vec<&'static str>,
    /// Applied migrations that made some of these: of them, only the statements about missing tables run again.
    repair: Vec<Migration>,
}

impl Plan {
    /// What lacks where these versions were applied and these tables exist.
    pub fn of(all: &[Migration], applied: &[u32], exists: impl Fn(&str) -> bool) -> Self {
        let missing: Vec<_> = tables(all).filter(|name| !exists(name)).collect();
        // Tables from before migrations were counted.
        let is_old = applied.is_empty() && tables(&all[..1]).all(&exists);
        let is_applied = |one: &Migration| applied.contains(&one.version) || (is_old && one.version == 1);
        let (mut repair, new): (Vec<_>, Vec<_>) = all.iter().copied().partition(is_applied);
        if !repair.iter().any(|one| missing.iter().any(|name| one.creates(name))) {
            repair.clear();
        }
        Self { new, missing, repair }
    }

    /// Whether nothing lacks.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty() && self.missing.is_empty()
    }

    /// The statements that have to run, but for the view.
    pub fn statements(&self) -> impl Iterator<Item = &'static str> {
        let again = self.repair.iter().flat_map(|one| one.statements());
        let again = again.filter(|statement| self.missing.contains(&target(statement)));
        let new = self.new.iter().flat_map(|one| one.statements());
        again.chain(new).filter(|statement| target(statement) != VIEW)
    }

    /// What lacks, in words.
    pub fn lacking(&self) -> String {
        let new = self.new.iter().map(|one| format!("migration {}", one.name));
        let tables = match &*self.missing {
            [] => None,
            [one] => Some(format!("table {one}")),
            many => Some(format!("tables {}", many.join(", "))),
        };
        new.chain(tables).collect::<Vec<_>>().join("; ")
    }

    /// What was done, once it is; a line each.
    pub fn done(&self) -> Vec<String> {
        let again = self.missing.iter().filter(|name| self.repair.iter().any(|one| one.creates(name)));
        let again = again.map(|name| format!("table {name} was missing: made anew"));
        again.chain(self.new.iter().map(|one| format!("migration {} applied", one.name))).collect()
    }
}

/// The highest version.
pub fn newest(all: &[Migration]) -> u32 {
    all.iter().map(|one| one.version).max().unwrap_or_default()
}

/// The statement that makes the view.
pub fn view(all: &[Migration]) -> Option<&'static str> {
    all.iter().flat_map(|one| one.statements()).filter(|statement| target(statement) == VIEW).last()
}

impl Migration {
    /// Its statements, without the comments before them.
    pub fn statements(self) -> impl Iterator<Item = &'static str> {
        self.sql.split(";\n").map(bare).filter(|statement| !statement.is_empty())
    }

    fn creates(self, name: &str) -> bool {
        self.statements().any(|statement| statement.starts_with("CREATE") && target(statement) == name)
    }
}

/// The tables that migrations create and leave, in their order.
pub fn tables(all: &[Migration]) -> impl Iterator<Item = &'static str> {
    let of = |begin: &'static str| {
        let statements = all.iter().flat_map(|one| one.statements());
        statements.filter(move |statement| statement.starts_with(begin)).map(target)
    };
    let dropped: Vec<&str> = of("DROP TABLE").collect();
    of("CREATE TABLE").filter(move |table| !dropped.contains(table))
}

fn bare(part: &str) -> &str {
    let mut rest = part.trim();
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest.trim_start());
    }
    rest.trim_end_matches(';')
}

/// The table or view that a statement makes or changes; of an index, its table.
fn target(statement: &str) -> &str {
    let words: Vec<&str> = statement.split([' ', '\n', '(']).filter(|word| !word.is_empty()).take(8).collect();
    let name = match *words {
        ["CREATE", "INDEX", "IF", "NOT", "EXISTS", _, "ON", table, ..]
        | ["CREATE", "TABLE" | "VIEW", "IF", "NOT", "EXISTS", table, ..]
        | ["DROP", "TABLE", "IF", "EXISTS", table, ..]
        | ["CREATE" | "ALTER", "TABLE" | "VIEW", table, ..]
        | ["INSERT", "INTO", table, ..]
        | ["UPDATE", table, ..] => table,
        _ => "",
    };
    name.trim_matches(['`', '"'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [&str; 14] = [
        "log_runs",
        "api_logs",
        "log_batches",
        "log_drops",
        "api_usage_minute",
        "api_usage_hour",
        "api_usage_day",
        "log_retention",
        "limit_counters",
        "api_consumers",
        "api_keys",
        "key_changes",
        "api_usage_outline_hour",
        "api_usage_outline_day",
    ];
    const DROPPED: [&str; 2] = ["api_usage_hour_outline", "api_usage_day_outline"];

    fn versions(all: &[Migration]) -> Vec<u32> {
        all.iter().map(|one| one.version).collect()
    }

    #[test]
    fn a_key_store_of_its_own_gets_its_tables_only() {
        for (keys, all) in [(SQLITE_KEYS, SQLITE), (MYSQL_KEYS, MYSQL)] {
            assert_eq!(tables(keys).collect::<Vec<_>>(), ["api_consumers", "api_keys", "key_changes"]);
            assert!(keys.iter().all(|one| all.contains(one)));
        }
    }

    #[test]
    fn every_statement_has_its_table() {
        for migrations in [SQLITE, MYSQL] {
            assert_eq!(tables(migrations).collect::<Vec<_>>(), ALL);
            for statement in migrations.iter().flat_map(|one| one.statements()) {
                let target = target(statement);
                assert!(ALL.contains(&target) || DROPPED.contains(&target) || target == VIEW, "{statement}");
            }
            assert!(migrations.is_sorted_by(|one, next| one.version < next.version));
            for one in migrations {
                assert!(one.name.starts_with(&format!("{:04}_", one.version)), "{one:?}");
            }
        }
    }

    #[test]
    fn a_new_database_gets_everything() {
        let plan = Plan::of(MYSQL, &[], |_| false);
        assert_eq!((plan.new.len(), plan.missing.len(), plan.repair.len()), (MYSQL.len(), ALL.len(), 0));
        assert!(
            plan.lacking().starts_with("migration 0001_request_log; migration 0002_ledger_and_usage; migration")
                && plan.lacking().contains("; tables log_runs, ")
        );
        assert!(view(MYSQL).is_some() && view(SQLITE).is_some());
    }

    #[test]
    fn tables_from_before_count_as_the_first_migration() {
        let plan = Plan::of(MYSQL, &[], |name| ALL[..2].contains(&name));
        assert_eq!((&*plan.new, plan.repair.len()), (&MYSQL[1..], 0));
    }

    #[test]
    fn a_complete_database_gets_nothing() {
        assert!(Plan::of(SQLITE, &versions(SQLITE), |_| true).is_empty());
    }

    #[test]
    fn a_table_that_was_dropped_is_made_with_all_its_columns_and_no_other_is_touched() {
        let plan = Plan::of(SQLITE, &versions(SQLITE), |name| name != "log_runs");
        let statements: Vec<_> = plan.statements().collect();
        assert_eq!(statements.len(), 1 + 3 + 1);
        assert!(statements.iter().all(|statement| target(statement) == "log_runs"));
        assert_eq!(plan.lacking(), "table log_runs");
        assert_eq!(plan.done(), ["table log_runs was missing: made anew"]);
    }

    #[test]
    fn a_dropped_table_does_not_hide_a_new_migration() {
        let plan = Plan::of(SQLITE, &[1], |name| name == "log_runs");
        let statements: Vec<_> = plan.statements().collect();
        assert!(statements.iter().any(|statement| statement.starts_with("ALTER TABLE log_runs")));
        assert_eq!(statements.iter().filter(|statement| target(statement) == "api_logs").count(), 2);
    }
}
