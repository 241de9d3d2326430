#!lua
-- fill_batch.lua: store what was loaded as a batch, but for what was deleted or set under its load (rule 2).
-- KEYS[1] ctl   KEYS[2] writes
-- ARGV[1] server   ARGV[2] digest   ARGV[3] the batch's secret   ARGV[4] incarnation of the stamp, hex
-- ARGV[5] seq of the stamp   ARGV[6] the batch's place   ARGV[7..] the entries, see store_groups
-- Returns the control record if all were stored, {control record, place...} if those were left out, 0 if none was: the
-- batch is not where it was noted, so nobody knows what was deleted since.
local raw = redis.call('GET', KEYS[1])
local c = parse(raw)
if not c or not accepts(c, ARGV[1], ARGV[2]) then return 0 end
if c.inc ~= ARGV[4] or tonumber(ARGV[5]) < c.closing then return 0 end
local since = redis.pcall('LRANGE', KEYS[2], tonumber(ARGV[6]) - 1, -1)
if since[1] ~= ARGV[3] then return 0 end
local written
for i = 2, #since do
  if string.sub(since[i], 1, 1) == '{' then -- an entry, not another batch
    written = written or {}
    written[since[i]] = true
  end
end
local left_out = store_groups(7, written)
if #left_out == 0 then return raw end
table.insert(left_out, 1, raw)
return left_out
