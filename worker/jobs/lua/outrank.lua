-- Whether a running job of the lowest tier shall make room: one of the highest has waited for a
-- worker, and no other job makes room already. It does so a few times at most, then runs to its end.
-- ARGV: id, exec, its tier that makes room, list of those that it makes room for, seconds that one
-- of them must have waited, seconds until another job may make room, times that a job does
-- Returns yes | no; yes again for the attempt that was told so last.
local id, exec, tier = ARGV[1], ARGV[2], ARGV[3]
local row = redis.call('HMGET', JOB .. id, 'exec', 'tier', 'yielded', 'model')
if exec == '' or row[1] ~= exec or row[2] ~= tier then
  return 'no'
end
if redis.call('SISMEMBER', PAUSED, '*') == 1 or redis.call('SISMEMBER', PAUSED, ARGV[4]) == 1 then
  return 'no' -- nobody would take what waits
end
local first = redis.call('LINDEX', ARGV[4], 0)
local since = first and field(first, 'created_at')
if not since or now() - tonumber(since) < tonumber(ARGV[5]) then
  return 'no'
end
local holder = redis.call('GET', ROOM .. row[4])
if holder then
  return holder == exec and 'yes' or 'no'
end
if tonumber(row[3] or 0) >= tonumber(ARGV[7]) then
  return 'no'
end
redis.call('SET', ROOM .. row[4], exec, 'EX', ARGV[6])
redis.call('HINCRBY', JOB .. id, 'yielded', 1)
return 'yes'
