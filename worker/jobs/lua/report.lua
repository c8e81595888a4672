-- Progress of the running attempt; the percentage never falls and stays below 100.
-- ARGV: id, exec, stage, step, total, eta or '', percent, shot, its share
-- Returns owned | fenced.
local id, exec, percent = ARGV[1], ARGV[2], tonumber(ARGV[7])
if exec == '' or field(id, 'exec') ~= exec then
  return 'fenced'
end
local before = tonumber(field(id, 'progress'))
redis.call('HSET', JOB .. id, 'stage', ARGV[3], 'step', ARGV[4], 'total', ARGV[5], 'eta', ARGV[6],
  'reported_at', stamp(now()), 'shot', ARGV[8], 'shot_done', ARGV[9],
  'progress', math.max(before, math.min(percent, 99)))
emit(id, 'progress')
return 'owned'
