-- The packed usage once more with less told apart, for questions that need no more: most reports read these.
-- routes tells apart endpoint, method, status, decided_by and service; instances status, service and instance;
-- consumers status, consumer and key; callers the same and the endpoint. What was packed before there were outlines has none, and is read whole.
CREATE TABLE api_usage_hour_outline (
  hour      TEXT    NOT NULL,
  run       INTEGER NOT NULL,
  instances BLOB    NOT NULL,
  routes    BLOB    NOT NULL,
  consumers BLOB    NOT NULL,
  callers   BLOB    NOT NULL,
  PRIMARY KEY (hour, run)
);
CREATE TABLE api_usage_day_outline (
  day       TEXT    NOT NULL,
  run       INTEGER NOT NULL,
  instances BLOB    NOT NULL,
  routes    BLOB    NOT NULL,
  consumers BLOB    NOT NULL,
  callers   BLOB    NOT NULL,
  PRIMARY KEY (day, run)
);
