#!lua flags=allow-oom
-- ban.lua: add rules to the ban log; all of them take effect at once (rule 7).
-- KEYS[1] ctl   KEYS[2] bans   KEYS[3] marks
-- ARGV[1] server   ARGV[2] digest   ARGV[3] new nonce, 8 hex digits   ARGV[4...] rules
-- Returns {head, rules in the log}, or 0 if there is no good control record: the caller fences and repeats.
local c = parse(redis.call('GET', KEYS[1]))
if not c or not accepts(c, ARGV[1], ARGV[2]) or c.head >= 9007199254740991 then return 0 end
if not redis.call('ZSCORE', KEYS[2], sentinel_of(c)) then return 0 end
c.head = c.head + 1
c.nonce = ARGV[3]
local head = string.format('%.0f', c.head)
for i = 4, #ARGV do redis.call('ZADD', KEYS[2], head, ARGV[i]) end
redis.call('SET', KEYS[1], render(c))
-- A mark a second is enough to know how old a ban is; one from the future (the clock went back) does not count.
local now = now_ms()
if redis.call('ZCOUNT', KEYS[3], now - 999, now) == 0 then redis.call('ZADD', KEYS[3], now, head) end
return {c.head, redis.call('ZCOUNT', KEYS[2], '-inf', '(inf')}
