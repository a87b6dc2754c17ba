-- The packed usage once more with less told apart, for questions that need no more: most reports read these.
-- routes tells apart endpoint, method, status, decided_by and service; instances status, service and instance;
-- consumers status, consumer and key; callers the same and the endpoint. What was packed before there were outlines has none, and is read whole.
CREATE TABLE api_usage_hour_outline (
  hour      DATETIME     NOT NULL,
  run       INT UNSIGNED NOT NULL,
  instances LONGBLOB     NOT NULL,
  routes    LONGBLOB     NOT NULL,
  consumers LONGBLOB     NOT NULL,
  callers   LONGBLOB     NOT NULL,
  PRIMARY KEY (hour, run)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
CREATE TABLE api_usage_day_outline (
  day       DATETIME     NOT NULL,
  run       INT UNSIGNED NOT NULL,
  instances LONGBLOB     NOT NULL,
  routes    LONGBLOB     NOT NULL,
  consumers LONGBLOB     NOT NULL,
  callers   LONGBLOB     NOT NULL,
  PRIMARY KEY (day, run)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
