-- Where the running attempt's latest checkpoint lies; any worker's next attempt goes on from it.
-- ARGV: id, exec, its JSON
-- Returns owned | fenced.
local id, exec = ARGV[1], ARGV[2]
if exec == '' or field(id, 'exec') ~= exec then
  return 'fenced'
end
redis.call('HSET', JOB .. id, 'ckpt', ARGV[3])
return 'owned'
