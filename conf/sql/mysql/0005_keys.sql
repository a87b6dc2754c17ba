-- Keys and whose they are, for `key_store`. Only digests; times are seconds since 1970 (UTC).
-- Who changes these tables by hand gives key_changes another stamp in the same transaction: gateways read the keys when it differs.
CREATE TABLE api_consumers (
  consumer VARCHAR(64) NOT NULL,
  plan     VARCHAR(64) NULL,
  labels   TEXT        NOT NULL,          -- separated by commas
  PRIMARY KEY (consumer)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE api_keys (
  name       VARCHAR(64) NOT NULL,
  consumer   VARCHAR(64) NOT NULL,
  sha256     CHAR(64)    NOT NULL,        -- hex digits in lower case
  created_at BIGINT      NOT NULL,
  expires_at BIGINT      NULL,            -- refused from then on
  revoked_at BIGINT      NULL,            -- refused since then
  weak       TINYINT     NOT NULL DEFAULT 0, -- imported although short or chosen
  PRIMARY KEY (name),
  UNIQUE KEY by_digest (sha256)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE key_changes (
  id         TINYINT     NOT NULL,
  stamp      VARCHAR(64) NOT NULL,
  changed_at BIGINT      NOT NULL,
  PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

INSERT INTO key_changes (id, stamp, changed_at) VALUES (1, 'new', 0);
