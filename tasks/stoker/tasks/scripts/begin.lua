-- begin.lua: a run of a job that needs no lock begins.
-- KEYS[1] job hash
-- Returns {state, starts since it last ended in order}, or false if the server does not know it.
local state = redis.call('HGET', KEYS[1], 'state')
if not state then
  return false
end
if state ~= 'queued' and state ~= 'running' then
  return {state, 0}
end
return {state, redis.call('HINCRBY', KEYS[1], 'starts', 1)}
