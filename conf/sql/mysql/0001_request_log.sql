-- The request log in MySQL and MariaDB. Run at start on a database that lacks one of these tables; changes nothing that
-- is there. An operator who gives the gateway a user without CREATE runs this file; the gateway then needs SELECT, INSERT
-- and UPDATE. Statements end with a semicolon at the end of a line. Times are UTC.

-- One row per process start of a gateway. A run that was killed has no closed_at.
CREATE TABLE IF NOT EXISTS log_runs (
  run        INT UNSIGNED    NOT NULL AUTO_INCREMENT,
  run_id     BINARY(16)      NOT NULL COMMENT 'UUIDv7',
  node       VARCHAR(255)    NOT NULL,
  version    VARCHAR(64)     NOT NULL,
  started_at DATETIME(6)     NOT NULL,
  beat_at    DATETIME(6)     NOT NULL,
  closed_at  DATETIME(6)     NULL,
  accepted   BIGINT UNSIGNED NOT NULL DEFAULT 0,
  recovered  BIGINT UNSIGNED NOT NULL DEFAULT 0,
  written    BIGINT UNSIGNED NOT NULL DEFAULT 0,
  spooled    BIGINT UNSIGNED NOT NULL DEFAULT 0,
  dropped    BIGINT UNSIGNED NOT NULL DEFAULT 0,
  PRIMARY KEY (run),
  UNIQUE KEY log_runs_run_id (run_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- One row per request. (run, sequence) is its identity. The rows lie in the order of the primary key: a window of time
-- is one range, without a second index; and a batch that is tried twice meets its own rows instead of doubling them.
CREATE TABLE IF NOT EXISTS api_logs (
  `timestamp`         DATETIME(6)       NOT NULL COMMENT 'start of the request, UTC',
  `endpoint`          VARCHAR(200)      NOT NULL COMMENT 'the pattern or name of the route, or (none)',
  `http_method`       VARCHAR(32)       NOT NULL,
  `status_code`       SMALLINT UNSIGNED NOT NULL,
  `response_time_ms`  DOUBLE            NOT NULL,
  `is_error`          BOOLEAN           NOT NULL COMMENT 'status 500 and above',
  `run`               INT UNSIGNED      NOT NULL COMMENT 'log_runs',
  `sequence`          BIGINT UNSIGNED   NOT NULL COMMENT 'from 1 in each run',
  `request_id`        BINARY(16)        NOT NULL COMMENT 'UUID',
  `client_request_id` VARCHAR(128)      NULL COMMENT 'what the client sent as X-Request-Id, where it was replaced',
  `host`              VARCHAR(255)      NULL,
  `path`              VARCHAR(2048)     NOT NULL,
  `protocol`          VARCHAR(16)       NOT NULL,
  `consumer`          VARCHAR(255)      NULL,
  `key`               VARCHAR(255)      NULL COMMENT 'the name of the key',
  `client_ip`         VARBINARY(16)     NULL COMMENT '4 or 16 bytes',
  `service`           VARCHAR(255)      NULL,
  `instance`          VARCHAR(255)      NULL,
  `attempts`          SMALLINT UNSIGNED NOT NULL,
  `upstream_ms`       DOUBLE            NULL,
  `cache`             VARCHAR(32)       NULL,
  `decided_by`        VARCHAR(64)       NOT NULL COMMENT 'upstream, cache, or the reason of a refusal',
  `limit_name`        VARCHAR(255)      NULL,
  `observed`          VARCHAR(255)      NULL,
  `bytes_in`          BIGINT UNSIGNED   NOT NULL,
  `bytes_out`         BIGINT UNSIGNED   NOT NULL,
  `user_agent`        VARCHAR(256)      NULL,
  `generation`        INT UNSIGNED      NOT NULL COMMENT 'the configuration that answered',
  PRIMARY KEY (`timestamp`, `run`, `sequence`),
  KEY api_logs_request_id (`request_id`)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Ids and addresses as people write them.
CREATE VIEW api_logs_readable AS
SELECT `timestamp`, `endpoint`, `http_method`, `status_code`, `response_time_ms`, `is_error`, `run`, `sequence`,
  LOWER(CONCAT_WS('-', HEX(SUBSTRING(`request_id`, 1, 4)), HEX(SUBSTRING(`request_id`, 5, 2)), HEX(SUBSTRING(`request_id`, 7, 2)),
    HEX(SUBSTRING(`request_id`, 9, 2)), HEX(SUBSTRING(`request_id`, 11, 6)))) AS `request_id`,
  `client_request_id`, `host`, `path`, `protocol`, `consumer`, `key`, INET6_NTOA(`client_ip`) AS `client_ip`, `service`, `instance`,
  `attempts`, `upstream_ms`, `cache`, `decided_by`, `limit_name`, `observed`, `bytes_in`, `bytes_out`, `user_agent`, `generation`
FROM api_logs;
