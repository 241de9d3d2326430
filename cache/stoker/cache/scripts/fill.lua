#!lua
-- fill.lua: store a loaded value, if nothing was invalidated under its load (rule 2).
-- KEYS[1] ctl   KEYS[2] entry   KEYS[3] lease   KEYS[4] writes
-- ARGV[1] server   ARGV[2] digest   ARGV[3] lease token   ARGV[4] incarnation of the stamp, hex   ARGV[5] seq of the stamp
-- ARGV[6] entry   ARGV[7] TTL in ms, '0' for none
-- Returns the control record if stored: a ban may have killed the value already, which the caller sees there.
-- Else 0, and the lease is gone if it was the caller's.
if redis.call('GET', KEYS[3]) ~= ARGV[3] then return 0 end
redis.call('DEL', KEYS[3])
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
if c.inc ~= ARGV[4] or tonumber(ARGV[5]) < c.closing then return 0 end
if ARGV[7] == '0' then redis.call('SET', KEYS[2], ARGV[6])
else redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[7]) end
if string.sub(ARGV[3], 1, 1) == 't' then note_write(KEYS[4], KEYS[2]) end -- a token: as true as what is set
return raw
