-- Gives the job of a running attempt back; `counts` uses up a retry.
-- ARGV: id, exec, reason, '1' if it counts
-- Returns ok | fenced; ok again for the attempt that gave it back last.
local id, exec = ARGV[1], ARGV[2]
if exec == '' then
  return 'fenced'
end
if field(id, 'exec') == exec then
  redis.call('HSET', JOB .. id, 'last_exec', exec)
  give_back(id, ARGV[3], ARGV[4] == '1')
  return 'ok'
end
if field(id, 'last_exec') == exec and field(id, 'exec') == '' then
  return 'ok'
end
return 'fenced'
