-- The request log in SQLite. Run at start on a database that lacks one of these tables; changes nothing that is there.
--
-- `timestamp` is text, 'YYYY-MM-DD HH:MM:SS.ffffff' in UTC: the format that SQLite's own date functions read and write,
-- so that `WHERE timestamp >= datetime('now', '-1 hour')` works as it stands, a person who opens the file can read it,
-- it sorts as the time does, and the same query runs on MySQL. An integer would save 18 bytes a row.

-- One row per process start of a gateway. A run that was killed has no closed_at.
CREATE TABLE IF NOT EXISTS log_runs (
  run        INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id     BLOB    NOT NULL UNIQUE,           -- UUIDv7
  node       TEXT    NOT NULL,
  version    TEXT    NOT NULL,
  started_at TEXT    NOT NULL,
  beat_at    TEXT    NOT NULL,
  closed_at  TEXT,
  accepted   INTEGER NOT NULL DEFAULT 0,
  recovered  INTEGER NOT NULL DEFAULT 0,
  written    INTEGER NOT NULL DEFAULT 0,
  spooled    INTEGER NOT NULL DEFAULT 0,
  dropped    INTEGER NOT NULL DEFAULT 0
);

-- One row per request. (run, sequence) is its identity. The rows lie in the order of the primary key: a window of time
-- is one range, without a second index; and a batch that is tried twice meets its own rows instead of doubling them.
CREATE TABLE IF NOT EXISTS api_logs (
  timestamp         TEXT    NOT NULL,           -- start of the request, UTC
  endpoint          TEXT    NOT NULL,           -- the route's pattern or name, or (none)
  http_method       TEXT    NOT NULL,
  status_code       INTEGER NOT NULL,
  response_time_ms  REAL    NOT NULL,
  is_error          INTEGER NOT NULL,           -- status 500 and above
  run               INTEGER NOT NULL,           -- log_runs
  sequence          INTEGER NOT NULL,           -- from 1 in each run
  request_id        BLOB    NOT NULL,           -- UUID, 16 bytes
  client_request_id TEXT,                       -- what the client sent as X-Request-Id, where it was replaced
  host              TEXT,
  path              TEXT    NOT NULL,
  protocol          TEXT    NOT NULL,
  consumer          TEXT,
  "key"             TEXT,                       -- the key's name
  client_ip         BLOB,                       -- 4 or 16 bytes
  service           TEXT,
  instance          TEXT,
  attempts          INTEGER NOT NULL,
  upstream_ms       REAL,
  cache             TEXT,
  decided_by        TEXT    NOT NULL,           -- upstream, cache, or the reason of a refusal
  limit_name        TEXT,
  observed          TEXT,
  bytes_in          INTEGER NOT NULL,
  bytes_out         INTEGER NOT NULL,
  user_agent        TEXT,
  generation        INTEGER NOT NULL,           -- the configuration that answered
  PRIMARY KEY (timestamp, run, sequence)
) WITHOUT ROWID;

-- Finds one request by its id.
CREATE INDEX IF NOT EXISTS api_logs_request_id ON api_logs (request_id);

-- Ids and addresses as people write them.
CREATE VIEW IF NOT EXISTS api_logs_readable AS
SELECT timestamp, endpoint, http_method, status_code, response_time_ms, is_error, run, sequence,
  lower(substr(hex(request_id), 1, 8) || '-' || substr(hex(request_id), 9, 4) || '-' || substr(hex(request_id), 13, 4)
    || '-' || substr(hex(request_id), 17, 4) || '-' || substr(hex(request_id), 21, 12)) AS request_id,
  client_request_id, host, path, protocol, consumer, "key",
  CASE length(client_ip)
    WHEN 4 THEN
      ((instr('123456789ABCDEF', substr(hex(client_ip), 1, 1)) << 4) + instr('123456789ABCDEF', substr(hex(client_ip), 2, 1)))
      || '.' || ((instr('123456789ABCDEF', substr(hex(client_ip), 3, 1)) << 4) + instr('123456789ABCDEF', substr(hex(client_ip), 4, 1)))
      || '.' || ((instr('123456789ABCDEF', substr(hex(client_ip), 5, 1)) << 4) + instr('123456789ABCDEF', substr(hex(client_ip), 6, 1)))
      || '.' || ((instr('123456789ABCDEF', substr(hex(client_ip), 7, 1)) << 4) + instr('123456789ABCDEF', substr(hex(client_ip), 8, 1)))
    WHEN 16 THEN
      lower(substr(hex(client_ip), 1, 4) || ':' || substr(hex(client_ip), 5, 4) || ':' || substr(hex(client_ip), 9, 4)
        || ':' || substr(hex(client_ip), 13, 4) || ':' || substr(hex(client_ip), 17, 4) || ':' || substr(hex(client_ip), 21, 4)
        || ':' || substr(hex(client_ip), 25, 4) || ':' || substr(hex(client_ip), 29, 4))
  END AS client_ip,
  service, instance, attempts, upstream_ms, cache, decided_by, limit_name, observed, bytes_in, bytes_out, user_agent, generation
FROM api_logs;
