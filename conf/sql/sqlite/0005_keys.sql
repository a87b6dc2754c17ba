-- Keys and whose they are, for `key_store`. Only digests; times are seconds since 1970 (UTC).
-- Who changes these tables by hand gives key_changes another stamp in the same transaction: gateways read the keys when it differs.
CREATE TABLE api_consumers (
  consumer TEXT NOT NULL PRIMARY KEY,
  plan     TEXT,
  labels   TEXT NOT NULL                -- separated by commas
);

CREATE TABLE api_keys (
  name       TEXT NOT NULL PRIMARY KEY,
  consumer   TEXT NOT NULL,
  sha256     TEXT NOT NULL UNIQUE,       -- 64 hex digits in lower case
  created_at INTEGER NOT NULL,
  expires_at INTEGER,                    -- refused from then on
  revoked_at INTEGER,                    -- refused since then
  weak       INTEGER NOT NULL DEFAULT 0  -- imported although short or chosen
);

CREATE TABLE key_changes (
  id         INTEGER NOT NULL PRIMARY KEY,
  stamp      TEXT NOT NULL,
  changed_at INTEGER NOT NULL
);

INSERT INTO key_changes (id, stamp, changed_at) VALUES (1, 'new', 0);
