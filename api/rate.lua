-- One request of a key against its limit a minute (GCRA: a bucket that refills continuously).
-- KEYS[1]: the key's entry: when, in microseconds, its bucket will be full again.
-- ARGV[1]: requests a minute, which is also the size of the bucket.
-- Returns whether it may go on, how many more may follow at once, and in how many microseconds
-- the next one may (if it may not) or the bucket is full again (if it may).
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local minute = 60000000
local cost = minute / ARGV[1]
local full = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + cost
if full - now > minute + 1 then
  return {0, 0, math.ceil(full - now - minute)}
end
redis.call('SET', KEYS[1], string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000) + 1000)
return {1, math.floor((minute - (full - now)) / cost + 0.001), math.ceil(full - now)}
