-- writes.lua: for scripts that change entries; put in by the loader.
--
-- Entries that were deleted or set while batches are under way are noted in the list that those share, if there is one
-- (see begin.lua). One that has grown long is given up: what is under way then is not stored.
local MOST_WRITES = 10000
local function note_write(writes, entry)
  local n = redis.pcall('RPUSHX', writes, entry)
  if type(n) == 'table' or n > MOST_WRITES then redis.call('UNLINK', writes) end
end
