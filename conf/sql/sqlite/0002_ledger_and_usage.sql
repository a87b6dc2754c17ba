-- The ledger of the request log, and the roll-ups of usage.

-- The highest number this run has given to a record. Its hours before hours_until are in api_usage_hour, its days before
-- days_until in api_usage_day; what comes later is in api_usage_minute alone.
ALTER TABLE log_runs ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log_runs ADD COLUMN hours_until TEXT NOT NULL DEFAULT '1970-01-01 00:00:00';
ALTER TABLE log_runs ADD COLUMN days_until TEXT NOT NULL DEFAULT '1970-01-01 00:00:00';

-- One row per stored batch: the records first to last of a run, of which `rows` are in api_logs. Rows older than a day are
-- merged into ranges. A batch whose range is here is stored, however often it is tried.
CREATE TABLE log_batches (
  run        INTEGER NOT NULL,
  first      INTEGER NOT NULL,
  last       INTEGER NOT NULL,
  "rows"     INTEGER NOT NULL,
  oldest     TEXT    NOT NULL,                  -- of the timestamps
  newest     TEXT    NOT NULL,
  written_at TEXT    NOT NULL,
  PRIMARY KEY (run, first)
) WITHOUT ROWID;

-- One row per checkpoint: records that were lost, and why. Where they had numbers, those are after + 1 to after + count;
-- where they had none, `after` is the number given last before.
CREATE TABLE log_drops (
  run      INTEGER NOT NULL,
  id       INTEGER NOT NULL,                    -- from 1 in each run
  "after"  INTEGER NOT NULL,
  "count"  INTEGER NOT NULL,
  reason   TEXT    NOT NULL,
  numbered INTEGER NOT NULL,
  since    TEXT    NOT NULL,
  until    TEXT    NOT NULL,
  PRIMARY KEY (run, id)
) WITHOUT ROWID;

-- Usage by minute (UTC). A run owns its rows. Times in microseconds; the histogram is described in docs/request-log.md.
CREATE TABLE api_usage_minute (
  minute      TEXT    NOT NULL,
  run         INTEGER NOT NULL,
  series      BLOB    NOT NULL,                 -- 16 bytes that stand for the columns from endpoint to instance
  endpoint    TEXT    NOT NULL,
  method      TEXT    NOT NULL,
  status      INTEGER NOT NULL,
  decided_by  TEXT    NOT NULL,
  consumer    TEXT,
  "key"       TEXT,
  service     TEXT,
  instance    TEXT,
  "count"     INTEGER NOT NULL,
  errors      INTEGER NOT NULL,
  blocked     INTEGER NOT NULL,
  bytes_in    INTEGER NOT NULL,
  bytes_out   INTEGER NOT NULL,
  duration_us INTEGER NOT NULL,
  upstream_us INTEGER NOT NULL,
  histogram   BLOB    NOT NULL,
  PRIMARY KEY (minute, run, series)
) WITHOUT ROWID;

-- The same, one packed value for each hour and run, and each day and run: a report over a year reads hundreds of values.
CREATE TABLE api_usage_hour (
  hour    TEXT    NOT NULL,
  run     INTEGER NOT NULL,
  "count" INTEGER NOT NULL,
  packed  BLOB    NOT NULL,
  PRIMARY KEY (hour, run)
);
CREATE TABLE api_usage_day (
  day     TEXT    NOT NULL,
  run     INTEGER NOT NULL,
  "count" INTEGER NOT NULL,
  packed  BLOB    NOT NULL,
  PRIMARY KEY (day, run)
);

-- What retention has removed: everything before `before`.
CREATE TABLE log_retention (
  what       TEXT NOT NULL PRIMARY KEY,         -- requests, minutes or hours
  before     TEXT NOT NULL,
  removed_at TEXT NOT NULL
) WITHOUT ROWID;

-- What was stored before there was a ledger.
INSERT INTO log_batches (run, first, last, "rows", oldest, newest, written_at)
SELECT run, MIN(sequence), MAX(sequence), COUNT(*), MIN(timestamp), MAX(timestamp), MAX(timestamp) FROM api_logs GROUP BY run;

-- Runs from before have nothing in api_usage_minute that is to be packed.
UPDATE log_runs SET hours_until = '9999-01-01 00:00:00', days_until = '9999-01-01 00:00:00',
  last = COALESCE((SELECT last FROM log_batches WHERE log_batches.run = log_runs.run), 0);
