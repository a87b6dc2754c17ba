-- All limits of one request, decided at once: KEYS[i] is what one identity has used of limit i, ARGV[1 + i] are its numbers.
-- ARGV[1] is `decide`, or `look`, which counts nothing. Times are microseconds of this server's clock. The answer is
-- {now, wait, remaining, more_in, wait, ...}: microseconds until the limit would admit, what is left, and when there will be more.
-- Where a clock went back, time stands still until it is where it was; where it went back by more than the window,
-- what was counted is taken to be counted now. So nobody gains by it, and nobody waits much longer than the window.

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local floor, ceil, max = math.floor, math.ceil, math.max

local SLOTS = 17
local SLOTS_FORMAT = '<d' .. string.rep('I4', SLOTS)

-- Sliding window: 16 slots and one; state is the number of the last slot, and what was counted in each, the oldest first.
-- A slot is forgotten when all of it is older than the window.
local function forgotten_in(limit, units)
  local freed = 0
  for age = 1, SLOTS do
    freed = freed + limit.used[age]
    if freed >= units then return max(1, (limit.last + age) * limit.slot - now) end
  end
  return limit.window -- more than is counted: a cost over the count
end

local sliding_window = {
  read = function(limit, state)
    limit.slot = ceil(limit.window / (SLOTS - 1))
    local present = floor(now / limit.slot)
    local used, total = {}, 0
    if state then
      local kept = {struct.unpack(SLOTS_FORMAT, state)}
      local last = kept[1]
      local shift = present - last
      if shift < 0 then
        if shift >= -SLOTS then present = last else limit.rebased = true end
        shift = 0
      end
      for age = 1, SLOTS do
        -- kept[1] is the slot's number, and the last element where reading ended.
        local count = age + shift <= SLOTS and kept[1 + age + shift] or 0
        used[age] = count
        total = total + count
      end
    else
      for age = 1, SLOTS do used[age] = 0 end
    end
    limit.last, limit.used, limit.total = present, used, total
  end,
  wait = function(limit)
    local over = limit.total + limit.cost - limit.count
    return over <= 0 and 0 or forgotten_in(limit, over)
  end,
  add = function(limit)
    limit.used[SLOTS] = limit.used[SLOTS] + limit.cost
    limit.total = limit.total + limit.cost
  end,
  save = function(limit)
    local lives = (limit.last + SLOTS) * limit.slot - now
    redis.call('SET', limit.key, struct.pack(SLOTS_FORMAT, limit.last, unpack(limit.used)), 'PX', ceil(lives / 1000) + 1)
  end,
  standing = function(limit)
    if limit.total == 0 then return limit.count, 0 end
    return max(0, limit.count - limit.total), forgotten_in(limit, max(0, limit.total - limit.count) + 1)
  end,
}

-- Sliding log: a sorted set of every admission by its time; exact, and as large as the count.
local sliding_log = {
  read = function(limit)
    if not limit.looks then
      local ahead = redis.call('ZRANGEBYSCORE', limit.key, '(' .. string.format('%.0f', now + limit.window), '+inf')
      for _, member in ipairs(ahead) do
        redis.call('ZADD', limit.key, 'XX', string.format('%.0f', now), member)
        limit.rebased = true
      end
    end
    limit.since = '(' .. string.format('%.0f', now - limit.window)
    limit.total = redis.call('ZCOUNT', limit.key, limit.since, '+inf')
  end,
  wait = function(limit)
    local over = limit.total + limit.cost - limit.count
    if over <= 0 then return 0 end
    local found = redis.call('ZRANGEBYSCORE', limit.key, limit.since, '+inf', 'WITHSCORES', 'LIMIT', over - 1, 1)
    return found[2] and max(1, found[2] + limit.window - now) or limit.window
  end,
  add = function(limit)
    redis.call('ZREMRANGEBYSCORE', limit.key, '-inf', string.format('%.0f', now - limit.window))
    local score, added, number = string.format('%.0f', now), 0, 0
    while added < limit.cost do
      added = added + redis.call('ZADD', limit.key, 'NX', score, score .. ':' .. number)
      number = number + 1
    end
    limit.total = limit.total + limit.cost
  end,
  save = function(limit)
    redis.call('PEXPIRE', limit.key, ceil(limit.window / 1000) + 1)
  end,
  standing = function(limit)
    if limit.total == 0 then return limit.count, 0 end
    local over = max(0, limit.total - limit.count)
    local found = redis.call('ZRANGEBYSCORE', limit.key, limit.since, '+inf', 'WITHSCORES', 'LIMIT', over, 1)
    return max(0, limit.count - limit.total), found[2] and max(1, found[2] + limit.window - now) or limit.window
  end,
}

-- Token bucket (GCRA): what is missing, in parts of a token (one token has as many as its window has microseconds,
-- so each microsecond gives back `count` parts), and when that was so. Whole numbers, exact up to 2^53.
local function refilled_in(limit, parts)
  local refill = ceil((limit.missing - max(0, parts)) / limit.count)
  return refill <= 0 and 0 or refill + limit.at - now
end

local token_bucket = {
  read = function(limit, state)
    local missing, at = 0, now
    if state then
      missing, at = struct.unpack('<dd', state)
      if at > now + limit.window then at, limit.rebased = now, true end
      if now > at then missing, at = max(0, missing - (now - at) * limit.count), now end
    end
    limit.missing, limit.at = missing, at
  end,
  wait = function(limit)
    if limit.cost > limit.burst then return limit.window end
    return refilled_in(limit, (limit.burst - limit.cost) * limit.window)
  end,
  add = function(limit)
    limit.missing = limit.missing + limit.cost * limit.window
  end,
  save = function(limit)
    local lives = refilled_in(limit, 0)
    redis.call('SET', limit.key, struct.pack('<dd', limit.missing, limit.at), 'PX', ceil(lives / 1000) + 1)
  end,
  standing = function(limit)
    local remaining = max(0, floor((limit.burst * limit.window - limit.missing) / limit.window))
    if limit.missing == 0 then return remaining, 0 end
    return remaining, max(1, refilled_in(limit, (limit.burst - remaining - 1) * limit.window))
  end,
}

-- Fixed window: when the period ends, and what was counted in it. A period begins at a multiple of its length, or lies between
-- two of the four bounds that the gateway took from its calendar; which two is decided by this server's clock.
local fixed_window = {
  read = function(limit, state)
    local ends, following
    if limit.bounds then
      for place = 4, 2, -1 do
        if now < limit.bounds[place] then ends, following = limit.bounds[place], limit.bounds[place + 1] or limit.bounds[place] end
      end
      if not ends or now < limit.bounds[1] then return 'CLOCK' end
    else
      ends = (floor(now / limit.window) + 1) * limit.window
      following = ends + limit.window
    end
    limit.ends, limit.total = ends, 0
    if state then
      local ended, total = struct.unpack('<dd', state)
      if ended >= ends then
        limit.rebased = ended > following
        limit.ends, limit.total = limit.rebased and ends or ended, total
      end
    end
  end,
  wait = function(limit)
    return limit.total + limit.cost <= limit.count and 0 or max(1, limit.ends - now)
  end,
  add = function(limit)
    limit.total = limit.total + limit.cost
  end,
  save = function(limit)
    local lives = limit.ends - now
    redis.call('SET', limit.key, struct.pack('<dd', limit.ends, limit.total), 'PX', ceil(lives / 1000) + 1)
  end,
  standing = function(limit)
    return max(0, limit.count - limit.total), limit.total == 0 and 0 or limit.ends - now
  end,
}

local KINDS = {sliding_window, sliding_log, token_bucket, fixed_window}

local looks = ARGV[1] == 'look'
local states = redis.call('MGET', unpack(KEYS))
local limits, refused = {}, false
for place, key in ipairs(KEYS) do
  local kind, enforced, cost, count, window, a, b, c, d = struct.unpack('<BBI4I4ddddd', ARGV[1 + place])
  local limit = {kind = KINDS[kind], key = key, cost = cost, count = count, window = window, burst = a, looks = looks}
  if a > 0 and kind == 4 then limit.bounds = {a, b, c, d} end
  local fault = limit.kind.read(limit, states[place])
  if fault then return {err = fault .. ' no bound of the period is near the time of this server'} end
  limit.wait = limit.kind.wait(limit)
  refused = refused or (enforced == 1 and limit.wait > 0)
  limits[place] = limit
end

local answer = {now}
for place, limit in ipairs(limits) do
  local counts = limit.wait == 0 and not refused and not looks
  if counts then limit.kind.add(limit) end
  if counts or (limit.rebased and not looks) then limit.kind.save(limit) end
  local remaining, more_in = limit.kind.standing(limit)
  if limit.wait > 0 then more_in = limit.wait end
  answer[3 * place - 1], answer[3 * place], answer[3 * place + 1] = limit.wait, remaining, more_in
end
return answer
