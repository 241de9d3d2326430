#!lua
-- set.lua: store a value that is true now, stamped with the present head; end the key's lease (rule 12).
-- KEYS[1] ctl   KEYS[2] entry   KEYS[3] lease   KEYS[4] writes
-- ARGV[1] server   ARGV[2] digest   ARGV[3] control record the caller knows   ARGV[4] entry, stamped by that record
-- ARGV[5] TTL in ms, '0' for none
-- Returns 1 if stored, 0 if there is no good control record, or the record of another incarnation: catch up and repeat.
local call = redis.call
local raw, entry = call('GET', KEYS[1]), ARGV[4]
-- As a rule nothing was banned since, and the caller has looked at the very same record. An id is 16 random digits, and
-- no mark before it: the server is accepted.
if raw ~= ARGV[3] or not string.find(raw, ':' .. ARGV[1], 1, true) then
-- control.lua
  local c = parse(raw)
  if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
  if c.inc ~= string.sub(ARGV[3], 3, 18) then return raw end
  entry = string.sub(entry, 1, 16) .. struct.pack('<I8', c.head) .. string.sub(entry, 25)
end
-- Nor is the key being loaded, or any batch.
if call('EXISTS', KEYS[3], KEYS[4]) > 0 then
-- writes.lua
  call('DEL', KEYS[3])
  note_write(KEYS[4], KEYS[2])
end
if ARGV[5] == '0' then call('SET', KEYS[2], entry)
else call('SET', KEYS[2], entry, 'PX', ARGV[5]) end
return 1
