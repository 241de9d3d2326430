#!lua flags=no-writes
-- look.lua: what there is to say of entries before they are judged, without making them look used (the caller sees to it).
-- KEYS entries   ARGV[1] server   ARGV[2] last byte wanted of each   ARGV[3] 'FREQ' or 'IDLETIME'
-- Returns three values for each: its first bytes ('' if it is no string), its use (-1 if that is not kept), and the
-- bytes it takes (-1 if it is not there).
local said = {}
for i, key in ipairs(KEYS) do
  local head = redis.pcall('GETRANGE', key, 0, ARGV[2])
  if type(head) ~= 'string' then
    if not string.find(head.err, 'WRONGTYPE', 1, true) then return head end
    head = ''
  end
  local use = redis.pcall('OBJECT', ARGV[3], key)
  said[3 * i - 2] = head
  said[3 * i - 1] = type(use) == 'number' and use or -1
  said[3 * i] = redis.call('MEMORY', 'USAGE', key) or -1
end
return said
