-- One gateway says that it is there, and learns how many there are. KEYS: the gateways, the deployment's state.
-- ARGV: the gateway's id, the last time of this server that it has seen (0: none), and how long a silent gateway is known.
-- The answer is {now, gateways, rank, lost}: rank is this gateway's place among their ids, from 0; lost is when it was last
-- noticed that counts were lost, or 0. Times are microseconds of this server's clock.
--
-- Gateways beat every second, so a silence of seconds in the kept state is either an outage or a loss of what came after it.
-- It is a loss when a gateway has seen this server answer inside it. A server that was killed may lose its last seconds
-- even with an append-only file: they are not called a loss.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local text = function(number) return string.format('%.0f', number) end
local SILENCE, LAST_SECONDS = 5000000, 3000000
local KEPT_MS = 40 * 86400000 -- longer than the longest window

local id, seen, known_for = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now - known_for))
redis.call('ZREMRANGEBYSCORE', KEYS[1], '(' .. text(now + known_for), '+inf')
redis.call('ZADD', KEYS[1], text(now), id)
redis.call('PEXPIRE', KEYS[1], math.ceil(known_for / 1000))
local gateways, rank = redis.call('ZRANGE', KEYS[1], 0, -1), 0
for _, other in ipairs(gateways) do
  if other < id then rank = rank + 1 end
end

local state = redis.call('HMGET', KEYS[2], 'beat', 'silent_from', 'silent_to', 'lost')
local beat, from, to, lost = tonumber(state[1] or 0), tonumber(state[2] or 0), tonumber(state[3] or 0), tonumber(state[4] or 0)
if now - beat > SILENCE then from, to = beat, now end
if seen > from + LAST_SECONDS and seen < to and lost < to then lost = now end
redis.call('HSET', KEYS[2], 'beat', text(now), 'silent_from', text(from), 'silent_to', text(to), 'lost', text(lost))
redis.call('PEXPIRE', KEYS[2], KEPT_MS)
return {now, #gateways, rank, lost}
