-- The packed usage once more, for questions that need less of it: a row for each outline of an hour or day, by name.
-- instances tells apart status, service and instance; routes endpoint, method, status, decided_by and service; consumers status, consumer
-- and key; targets everything but consumer and key; callers endpoint, status, consumer and key. key-0 to key-15 tell apart
-- everything, each of those keys that fall into it, and consumer-0 to consumer-15 the same of consumers.
-- What has no row named instances was packed before there were outlines, and is read whole.
DROP TABLE IF EXISTS api_usage_hour_outline;
DROP TABLE IF EXISTS api_usage_day_outline;
CREATE TABLE api_usage_outline_hour (
  outline TEXT NOT NULL,
  hour TEXT NOT NULL,
  run INTEGER NOT NULL,
  packed BLOB NOT NULL,
  PRIMARY KEY (outline, hour, run)
);
CREATE TABLE api_usage_outline_day (
  outline TEXT NOT NULL,
  day TEXT NOT NULL,
  run INTEGER NOT NULL,
  packed BLOB NOT NULL,
  PRIMARY KEY (outline, day, run)
);
CREATE INDEX IF NOT EXISTS api_usage_outline_hour_by_hour ON api_usage_outline_hour (hour);
