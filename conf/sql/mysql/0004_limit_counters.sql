-- What limits have counted that outlives the process: windows of an hour and longer, and those of the calendar.

-- One row per limit and identity that counts in it. A gateway reads and writes only its own rows.
CREATE TABLE limit_counters (
  gateway    VARCHAR(255)    NOT NULL COMMENT 'node and listening addresses',
  id         BINARY(16)      NOT NULL COMMENT 'stands for limit and identity',
  `limit`    VARCHAR(1024)   NOT NULL COMMENT 'with the plan, service or route where it counts',
  identity   VARCHAR(255)    NOT NULL,
  uses       VARCHAR(2048)   NOT NULL COMMENT 'milliseconds since 1970 : millionths of a unit of cost',
  expires_ms BIGINT UNSIGNED NOT NULL COMMENT 'since 1970: from then on nothing of it counts',
  PRIMARY KEY (gateway, id),
  KEY limit_counters_expires (expires_ms)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
