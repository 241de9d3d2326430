-- hot_merge.lua: add reads to what is known of a tenant's hot keys, and age it.
-- KEYS[1] tenants: tenant -> began, past reads, past ms, reads: when the present span began, what was read before it and
--         in what time, both decayed, and what was read since
-- KEYS[2] keys -> reads before the span, decayed     KEYS[3] keys -> reads in the span
-- ARGV[1] tenant             ARGV[2] ms of a span    ARGV[3] ms in which what was read comes to count half
-- ARGV[4] most keys          ARGV[5] ms it is kept   ARGV[6] key, ARGV[7] its reads, and so on
-- In a span all keys begin at zero: one that has just become hot competes with others for the same time. Far more keys
-- are counted than are told, for one that is dropped before it has been read often begins at zero again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local span, half = tonumber(ARGV[2]), tonumber(ARGV[3])
local held = redis.call('HGET', KEYS[1], ARGV[1]) or ''
local began, past, past_ms, reads = string.match(held, '^(%S+) (%S+) (%S+) (%S+)$')
began, past, past_ms, reads = tonumber(began), tonumber(past), tonumber(past_ms), tonumber(reads)
local function usable(number)
  return number and number >= 0 and number < 1e300 -- which nan is not
end
if not (usable(began) and usable(past) and usable(past_ms) and usable(reads)) or began > now then
  began, past, past_ms, reads = now, 0, 0, 0
end

local function trim(key)
  redis.call('ZREMRANGEBYRANK', key, 0, -1 - tonumber(ARGV[4]))
end

local age = now - began
if age >= span then
  local older, newer = 2 ^ (-age / half), 2 ^ (-(age - span) / half)
  redis.call('ZUNIONSTORE', KEYS[2], 2, KEYS[2], KEYS[3], 'WEIGHTS', older, newer)
  trim(KEYS[2])
  redis.call('DEL', KEYS[3])
  past, past_ms = past * older + reads * newer, past_ms * older + age
  began, reads = now, 0
end
for at = 6, #ARGV, 2 do
  redis.call('ZINCRBY', KEYS[3], ARGV[at + 1], ARGV[at])
  reads = reads + tonumber(ARGV[at + 1])
end
trim(KEYS[3])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.17g %.17g %.17g', began, past, past_ms, reads))
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ARGV[5])
end
