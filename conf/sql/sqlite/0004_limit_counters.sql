-- What limits have counted that outlives the process: windows of an hour and longer, and those of the calendar.

-- One row per limit and identity that counts in it. A gateway reads and writes only its own rows.
CREATE TABLE limit_counters (
  gateway    TEXT    NOT NULL,                  -- node and listening addresses
  id         BLOB    NOT NULL,                  -- 16 bytes that stand for limit and identity
  "limit"    TEXT    NOT NULL,                  -- with the plan, service or route where it counts
  identity   TEXT    NOT NULL,
  uses       TEXT    NOT NULL,                  -- milliseconds since 1970 : millionths of a unit of cost
  expires_ms INTEGER NOT NULL,                  -- since 1970: from then on nothing of it counts
  PRIMARY KEY (gateway, id)
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS limit_counters_expires ON limit_counters (expires_ms);
