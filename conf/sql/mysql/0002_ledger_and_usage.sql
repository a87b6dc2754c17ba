-- The ledger of the request log, and the roll-ups of usage.

-- The highest number this run has given to a record. Its hours before hours_until are in api_usage_hour, its days before
-- days_until in api_usage_day; what comes later is in api_usage_minute alone.
ALTER TABLE log_runs
  ADD COLUMN last BIGINT UNSIGNED NOT NULL DEFAULT 0,
  ADD COLUMN hours_until DATETIME NOT NULL DEFAULT '1970-01-01 00:00:00',
  ADD COLUMN days_until DATETIME NOT NULL DEFAULT '1970-01-01 00:00:00';

-- One row per stored batch: the records first to last of a run, of which `rows` are in api_logs. Rows older than a day are
-- merged into ranges. A batch whose range is here is stored, however often it is tried.
CREATE TABLE log_batches (
  run        INT UNSIGNED    NOT NULL,
  first      BIGINT UNSIGNED NOT NULL,
  last       BIGINT UNSIGNED NOT NULL,
  `rows`     BIGINT UNSIGNED NOT NULL,
  oldest     DATETIME(6)     NOT NULL COMMENT 'of the timestamps',
  newest     DATETIME(6)     NOT NULL,
  written_at DATETIME(6)     NOT NULL,
  PRIMARY KEY (run, first)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- One row per checkpoint: records that were lost, and why. Where they had numbers, those are after + 1 to after + count;
-- where they had none, `after` is the number given last before.
CREATE TABLE log_drops (
  run      INT UNSIGNED    NOT NULL,
  id       BIGINT UNSIGNED NOT NULL COMMENT 'from 1 in each run',
  `after`  BIGINT UNSIGNED NOT NULL,
  `count`  BIGINT UNSIGNED NOT NULL,
  reason   VARCHAR(32)     NOT NULL,
  numbered BOOLEAN         NOT NULL,
  since    DATETIME(6)     NOT NULL,
  until    DATETIME(6)     NOT NULL,
  PRIMARY KEY (run, id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Usage by minute (UTC). A run owns its rows. Times in microseconds; the histogram is described in docs/request-log.md.
CREATE TABLE api_usage_minute (
  minute      DATETIME          NOT NULL,
  run         INT UNSIGNED      NOT NULL,
  series      BINARY(16)        NOT NULL COMMENT 'stands for the columns from endpoint to instance',
  endpoint    VARCHAR(200)      NOT NULL,
  method      VARCHAR(16)       NOT NULL,
  status      SMALLINT UNSIGNED NOT NULL,
  decided_by  VARCHAR(64)       NOT NULL,
  consumer    VARCHAR(255)      NULL,
  `key`       VARCHAR(255)      NULL,
  service     VARCHAR(255)      NULL,
  instance    VARCHAR(255)      NULL,
  `count`     BIGINT UNSIGNED   NOT NULL,
  errors      BIGINT UNSIGNED   NOT NULL,
  blocked     BIGINT UNSIGNED   NOT NULL,
  bytes_in    BIGINT UNSIGNED   NOT NULL,
  bytes_out   BIGINT UNSIGNED   NOT NULL,
  duration_us BIGINT UNSIGNED   NOT NULL,
  upstream_us BIGINT UNSIGNED   NOT NULL,
  histogram   BLOB              NOT NULL,
  PRIMARY KEY (minute, run, series)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- The same, one packed value for each hour and run, and each day and run: a report over a year reads hundreds of values.
CREATE TABLE api_usage_hour (
  hour    DATETIME        NOT NULL,
  run     INT UNSIGNED    NOT NULL,
  `count` BIGINT UNSIGNED NOT NULL,
  packed  LONGBLOB        NOT NULL,
  PRIMARY KEY (hour, run)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE api_usage_day (
  day     DATETIME        NOT NULL,
  run     INT UNSIGNED    NOT NULL,
  `count` BIGINT UNSIGNED NOT NULL,
  packed  LONGBLOB        NOT NULL,
  PRIMARY KEY (day, run)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What retention has removed: everything before `before`.
CREATE TABLE log_retention (
  what       VARCHAR(16) NOT NULL COMMENT 'requests, minutes or hours',
  `before`   DATETIME(6) NOT NULL,
  removed_at DATETIME(6) NOT NULL,
  PRIMARY KEY (what)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What was stored before there was a ledger.
INSERT INTO log_batches (run, first, last, `rows`, oldest, newest, written_at)
SELECT run, MIN(sequence), MAX(sequence), COUNT(*), MIN(`timestamp`), MAX(`timestamp`), MAX(`timestamp`) FROM api_logs GROUP BY run;

-- Runs from before have nothing in api_usage_minute that is to be packed.
UPDATE log_runs SET hours_until = '9999-01-01 00:00:00', days_until = '9999-01-01 00:00:00',
  last = COALESCE((SELECT MAX(last) FROM log_batches WHERE log_batches.run = log_runs.run), 0);
