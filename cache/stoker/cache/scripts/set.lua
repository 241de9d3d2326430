#!lua
-- set.lua: store a value that is true now, stamped with the present head; end the key's lease (rule 12).
-- KEYS[1] ctl   KEYS[2] entry   KEYS[3] lease
-- ARGV[1] server   ARGV[2] digest   ARGV[3] incarnation that ARGV[4] was made with, hex
-- ARGV[4] entry up to its seq   ARGV[5] entry after its seq   ARGV[6] TTL in ms, '0' for none
-- Returns 1 if stored, 0 if there is no good control record, or the record of another incarnation: catch up and repeat.
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
if c.inc ~= ARGV[3] then return raw end
local entry = ARGV[4] .. struct.pack('<I8', c.head) .. ARGV[5]
if ARGV[6] == '0' then redis.call('SET', KEYS[2], entry)
else redis.call('SET', KEYS[2], entry, 'PX', ARGV[6]) end
redis.call('DEL', KEYS[3])
return 1
