-- open.lua: write down a new job, or join the unfinished job of the same target.
-- KEYS[1] job hash               KEYS[2] ids of all jobs -> creation, ms
-- KEYS[3] ids of unfinished jobs -> when the reaper looks at them, ms
-- KEYS[4] id of the target's unfinished job; absent for a job without a target
-- ARGV[1] id                     ARGV[2] ms an unfinished job is kept    ARGV[3] ms a finished one is listed
-- ARGV[4] ms until the reaper looks at it
-- ARGV[5] what the names of job hashes begin with
-- ARGV[6] "1": a running job that is joined makes another pass
-- ARGV[7..] fields and values of a new job
-- Returns the id of the job that stands for the request: this one, or the one it joined.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local other = KEYS[4] and redis.pcall('GET', KEYS[4])
if type(other) == 'string' and other ~= ARGV[1] then
  local hash = ARGV[5] .. other -- the state server is one node, so a key need not be declared
  local state = redis.pcall('HGET', hash, 'state') -- of another type: it is no job's
  local ends = redis.pcall('HEXISTS', hash, 'abort') == 1 -- it would not do what this request is about
  if state == 'running' and ARGV[6] == '1' and not ends then
    redis.call('HSET', hash, 'again', '1')
  end
  if (state == 'running' or state == 'queued') and not ends then
    return other
  end
end
if redis.call('EXISTS', KEYS[1]) == 1 then -- a task that runs for the second time
  return ARGV[1]
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'created_at', now, 'updated_at', now, unpack(ARGV, 7))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[3])
redis.call('PEXPIRE', KEYS[2], math.max(ARGV[2], ARGV[3]))
redis.call('ZADD', KEYS[3], now + ARGV[4], ARGV[1])
redis.call('PEXPIRE', KEYS[3], ARGV[2])
if KEYS[4] then
  redis.call('SET', KEYS[4], ARGV[1], 'PX', ARGV[2])
end
return ARGV[1]
