-- One decision on the three token buckets of one model class. docs/limits.md tells how it works.
--
-- KEYS[1] holds the state of the class, packed: t time of the last refill, e epoch (a new one
-- after a flush), cu closed until, cd for how long, rf rt rg the ramp (factor, since, growth a
-- second), u the recent use as a part of the limit, lt when the newest request left whose response
-- confirmed the limits, free = 1 where the server names none, and for each bucket (r requests,
-- i input, o output): m limit a minute, l level, s the level that the server should have (requests
-- that still wait are not debited, and output is when its call ends), n all debits so far, c all
-- corrections of s so far, a average cost, p the most that ever remained: how much the bucket holds,
-- which no header says. Times are seconds.
--
-- ARGV: operation, now ('' takes the server's clock), three caps, share, three limits and three
-- levels and the closure (in seconds) that the caller remembers, 1 after an outage; then what the
-- operation needs.

local FLOOR = 0.05         -- of a minute is left alone: jitter on the way, errors of estimates
local SMALL_FLOOR = 0.25   -- at most so much of a bucket that holds little
local PULL = 0.25          -- of a level that is too low is corrected at a time
local GROWTH = 1 / 300     -- of the limit a second, after a ramp limit
local LEAST_RAMP = 1 / 64
local ROUNDING = 1000      -- the server rounds the tokens that remain
local NO_TIME = 0.001      -- not worth waiting for
local LIFETIME = 86400     -- of a class that nobody uses

local BUCKETS = {'r', 'i', 'o'}
local op, next_arg = ARGV[1], 15
local clock = redis.call('TIME')
local real = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local now = tonumber(ARGV[2]) or real

local function three(from)
  return {r = tonumber(ARGV[from]), i = tonumber(ARGV[from + 1]), o = tonumber(ARGV[from + 2])}
end
local caps, share, limits_seen, levels_seen = three(3), tonumber(ARGV[6]), three(7), three(10)
local closed_seen, resuming = tonumber(ARGV[13]), ARGV[14] == '1'

-- The state.

local function stored()
  local packed = redis.call('GET', KEYS[1])
  local is_whole, state = pcall(cmsgpack.unpack, packed or '')
  return packed and is_whole and type(state) == 'table' and state.t and state
end
local known_state = stored()
local s = known_state
    or {t = now, e = real, cu = 0, cd = 0, rf = 1, rt = now, rg = GROWTH, u = 0, lt = 0}

local function limit(b)  -- a minute: what we may use of what the server allows
  local learned, cap = s[b .. 'm'], caps[b]
  if not learned then return cap end
  local mine = learned * share
  return cap and math.min(cap, mine) or mine
end
local function is_mirror(b)  -- our bucket is the server's, not a part of it
  local learned = s[b .. 'm']
  return learned and limit(b) >= learned and s.rf >= 1
end
local function ramp_at(time) return math.min(1, s.rf + s.rg * math.max(0, time - s.rt)) end
local function size_of(b) return limit(b) * ramp_at(now) end
local function room_of(b) return math.min(size_of(b), s[b .. 'p'] or math.huge) end
local function floor_of(b) return math.min(size_of(b) * FLOOR, room_of(b) * SMALL_FLOOR) end
local function rate(b) return size_of(b) / 60 end
local function closed_for() return math.max(0, s.cu - now) end

local function close(seconds)
  if now + seconds > s.cu then s.cu, s.cd = now + seconds, seconds end
end

local function refill()
  if resuming or not known_state then close(closed_seen) end
  for _, b in ipairs(BUCKETS) do
    s[b .. 'n'], s[b .. 'c'] = s[b .. 'n'] or 0, s[b .. 'c'] or 0
    s[b .. 'm'] = s[b .. 'm'] or limits_seen[b]
  end
  -- A clock that jumped back must not keep the class closed for longer than was asked.
  if s.cu - now > s.cd then s.cu = now + s.cd end
  local from = math.min(math.max(math.min(s.t, now), s.cu), now)  -- nothing flows while closed
  local flow = (now - from) * (ramp_at(from) + ramp_at(now)) / 2 / 60
  s.u = s.u * math.exp(-math.max(0, now - s.t) / 30)
  s.t = now
  if s.rf < 1 and ramp_at(now) >= 1 then s.rf, s.rg = 1, GROWTH end
  for _, b in ipairs(BUCKETS) do
    if limit(b) then
      local low = levels_seen[b] or floor_of(b)
      for _, level in ipairs({b .. 'l', b .. 's'}) do
        s[level] = math.min(room_of(b), s[level] and s[level] + limit(b) * flow or low)
        if resuming then s[level] = math.min(s[level], low) end
      end
    end
  end
end

local function save() redis.call('SET', KEYS[1], cmsgpack.pack(s), 'EX', LIFETIME) end

-- Tickets: what has to be told again of a reservation. Opaque to the caller.

local function ticket(debits, places, is_sent)
  local levels, corrections = {}, {}
  for _, b in ipairs(BUCKETS) do
    levels[b], corrections[b] = is_sent and s[b .. 's'] or nil, s[b .. 'c']
  end
  return cmsgpack.pack({s.e, debits, places, levels, corrections})
end

local function read_ticket(text)  -- nil if it is not from this epoch
  if text == '' then return nil end
  local parts = cmsgpack.unpack(text)
  if parts[1] ~= s.e then return nil end
  return {debits = parts[2], places = parts[3], s = parts[4], c = parts[5]}
end

local function known() return s.free == 1 or s.rm or s.im or s.om or limit('r') or limit('i')
  or limit('o') end

local function answer_of(word, wait, text)
  return {word, tostring(wait + closed_for()), text, tostring(closed_for())}
end

local function give(b, what, amount)
  local level = b .. what
  if s[level] then s[level] = s[level] + amount end
end

local function correct(b, amount)
  give(b, 'l', amount)
  give(b, 's', amount)
  s[b .. 'c'] = s[b .. 'c'] + amount
end

-- Decisions.

local function send(debits, places)
  give('r', 's', -debits.r)
  give('i', 's', -debits.i)
  return ticket(debits, places, true)
end

local function admit(max_wait, costs)
  local wait, debits, places, used = 0, {}, {}, 0
  for _, b in ipairs(BUCKETS) do
    debits[b] = costs[b]
    if limit(b) then
      -- What can never fit goes when the bucket is full: the server has the last word.
      debits[b] = math.min(costs[b], size_of(b) - floor_of(b))
      wait = math.max(wait, (floor_of(b) - s[b .. 'l'] + debits[b]) / rate(b))
      used = math.max(used, debits[b] * 60 / limit(b))
    end
  end
  if wait < NO_TIME then wait = 0 end
  if wait + closed_for() > max_wait then return answer_of('refused', wait, '') end
  for _, b in ipairs(BUCKETS) do
    give(b, 'l', -debits[b])
    s[b .. 'n'] = s[b .. 'n'] + debits[b]
    places[b] = s[b .. 'n']
  end
  s.u = s.u + used / 30
  local goes = wait + closed_for() == 0
  local text = goes and send(debits, places) or ticket(debits, places, false)
  return answer_of(known() and 'admitted' or 'unknown', wait, text)
end

local function confirm(text, max_wait, costs)
  local t = read_ticket(text)
  if not t then return admit(max_wait, costs) end
  local wait = 0
  for _, b in ipairs(BUCKETS) do
    if limit(b) then
      -- The level as it would be had nobody come after us.
      local level = s[b .. 'l'] + s[b .. 'n'] - t.places[b]
      if level < floor_of(b) * 0.75 then wait = math.max(wait, (floor_of(b) - level) / rate(b)) end
    end
  end
  if wait < NO_TIME then wait = 0 end
  if wait + closed_for() == 0 then text = send(t.debits, t.places) end
  return answer_of('admitted', wait, text)
end

local function release(text)
  local t = read_ticket(text)
  if not t then return end
  for _, b in ipairs(BUCKETS) do
    give(b, 'l', t.debits[b])
    s[b .. 'n'] = s[b .. 'n'] - t.debits[b]  -- nobody who was before us gains by it
  end
end

-- The first levels: what remained when our request came, less what was sent since. The server had
-- seen nobody's output.
local function begin(t, b, there)
  local low = floor_of(b)
  if not (t and there) then return low, low end
  local unseen = s[b .. 'n'] - t.places[b]
  if b == 'o' then return there * share - s[b .. 'n'], there * share end
  return there * share - unseen, there * share - unseen
end

-- A bucket is never seen fuller than it can be.
local function measure(remaining)
  for _, b in ipairs(BUCKETS) do
    if remaining[b] then s[b .. 'p'] = math.max(s[b .. 'p'] or 0, remaining[b] * share) end
  end
end

-- Limits in a response that left before another which contradicts it are old news.
local function learn(t, limits, remaining, sent)
  local news, contradicts = false, false
  for _, b in ipairs(BUCKETS) do
    if limits[b] then
      news = true
      if s[b .. 'm'] ~= limits[b] then contradicts = true end
    end
  end
  if not news then return end
  if not contradicts then s.lt = math.max(s.lt, sent) return end
  if sent < s.lt then return end
  s.lt = sent
  for _, b in ipairs(BUCKETS) do
    if limits[b] then
      s[b .. 'm'] = limits[b]
      if not s[b .. 'l'] then s[b .. 'l'], s[b .. 's'] = begin(t, b, remaining[b]) end
      s[b .. 'l'] = math.min(room_of(b), s[b .. 'l'])
      s[b .. 's'] = math.min(room_of(b), s[b .. 's'])
    end
  end
end

-- Compare what remains at the server with what should. Whether it counted when our request came or
-- when its reply left is unknown, so only an error in both readings is one.
local function observe(t, remaining, used)
  for _, b in ipairs(BUCKETS) do
    local there, size = remaining[b], limit(b)
    if there and size then
      local low, high = s[b .. 's'], math.huge
      if t and t.s[b] then
        local sent_at = t.s[b]
        if b == 'i' then sent_at = sent_at + t.debits.i - (used.i or t.debits.i) end
        local since = s[b .. 'c'] - t.c[b]
        high = math.max(low, sent_at, sent_at + since)
        low = math.min(low, sent_at, sent_at + since)
      end
      local slack = size * 0.002 + ((b == 'r') and 1 or (there % ROUNDING == 0) and ROUNDING or 0)
      if there < low - slack then
        correct(b, there + slack - low)
      elseif is_mirror(b) and there > high + slack + floor_of(b) then
        correct(b, (there - high - slack - floor_of(b)) * PULL)
      end
    end
  end
end

local function average(used)
  for _, b in ipairs(BUCKETS) do
    local a = b .. 'a'
    if used[b] then s[a] = s[a] and s[a] + 0.05 * (used[b] - s[a]) or used[b] end
  end
end

local function settle(text, used, limits, remaining, latency, is_complete)
  local t, sent = read_ticket(text), now - latency
  if is_complete and not known() and not (limits.r or limits.i or limits.o) then s.free = 1 end
  measure(remaining)
  learn(t, limits, remaining, sent)
  if t then
    correct('i', t.debits.i - (used.i or t.debits.i))
    give('o', 'l', t.debits.o - (used.o or t.debits.o))
    give('o', 's', -(used.o or t.debits.o))
  end
  if is_complete then average(used) end
  observe(t, remaining, used)
end

local function reject(text, limits, remaining, latency, seconds, is_ramp)
  local t = read_ticket(text)
  measure(remaining)
  learn(t, limits, remaining, now - latency)
  for _, b in ipairs(BUCKETS) do
    if limit(b) then
      if t and b ~= 'o' then correct(b, t.debits[b]) end  -- the server took nothing
      if t and b == 'o' then give(b, 'l', t.debits[b]) end
      local there = remaining[b] or floor_of(b)
      if s[b .. 's'] > there then correct(b, there - s[b .. 's']) end
    end
  end
  if is_ramp and (s.rf >= 1 or now > s.rt + 1) then  -- one step, however many fail together
    s.rf = math.max(LEAST_RAMP, math.min(ramp_at(now), s.u) / 2)
    s.rg, s.rt = math.max(GROWTH / 64, s.rg / 2), now + seconds
  end
  close(seconds)
end

local function report()
  local parts = {tostring(known() and 1 or 0), tostring(closed_for()), tostring(ramp_at(now))}
  for _, b in ipairs(BUCKETS) do
    local size = limit(b)
    parts[#parts + 1] = tostring(size or '')
    parts[#parts + 1] = tostring(s[b .. 'l'] or '')
    parts[#parts + 1] = tostring(s[b .. 'a'] or '')
  end
  return parts
end

refill()
local answer = 'ok'
if op == 'admit' then
  answer = admit(tonumber(ARGV[next_arg]), three(next_arg + 1))
elseif op == 'confirm' then
  answer = confirm(ARGV[next_arg], tonumber(ARGV[next_arg + 1]), three(next_arg + 2))
elseif op == 'release' then
  release(ARGV[next_arg])
elseif op == 'settle' then
  settle(ARGV[next_arg], three(next_arg + 1), three(next_arg + 4), three(next_arg + 7),
         tonumber(ARGV[next_arg + 10]), ARGV[next_arg + 11] == '1')
elseif op == 'reject' then
  reject(ARGV[next_arg], three(next_arg + 1), three(next_arg + 4), tonumber(ARGV[next_arg + 7]),
         tonumber(ARGV[next_arg + 8]), ARGV[next_arg + 9] == '1')
else
  return report()
end
save()
return answer
