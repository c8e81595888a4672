-- Ends a follower with its copy of what its leader made.
-- ARGV: id, leader, token that its copy's keys hold, result, its queue entry
-- Returns ok | stale: it follows that leader no more; ok again for the token that ended it.
local id, leader, token = ARGV[1], ARGV[2], ARGV[3]
if field(id, 'ended_by') == token then
  return 'ok'
end
if field(id, 'state') ~= 'queued' or field(id, 'leader') ~= leader then
  return 'stale'
end
redis.call('HSET', JOB .. id, 'made_by', leader)
finish(id, 'completed', 'result', ARGV[4], token)
redis.call('EXPIRE', ARGV[5], 3600)
return 'ok'
