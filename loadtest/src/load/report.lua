-- What wrk found, in one line that a program can read. Latencies in microseconds.
-- Which requests are sent is not decided here (picks.lua).
function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"answers":%d,"micros":%d,"not_ok":%d,"errors":{"connect":%d,"read":%d,"write":%d,"timeout":%d},'
      .. '"p50_us":%d,"p99_us":%d,"p999_us":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect, errors.read, errors.write, errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
