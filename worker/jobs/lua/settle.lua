-- Writes down how one try to deliver a letter ended.
-- ARGV: letter, number of the try, delivered | failed | dead | gone, reason,
--       seconds until the next try, key that says that this receiver wants no more
-- Returns ok | stale: another sender has settled this try.
local id, try, outcome = ARGV[1], ARGV[2], ARGV[3]
local letter = LETTER .. id
local tries = redis.call('HGET', letter, 'tries')
if not tries or (tries ~= try and outcome ~= 'delivered') then
  return 'stale'
end
local at = now()
redis.call('HINCRBY', DELIVERIES, outcome, 1)
if outcome == 'delivered' then
  redis.call('ZREM', OUTBOX, id)
  redis.call('ZREM', DEAD, id)
  redis.call('DEL', letter)
  return 'ok'
end
redis.call('HSET', letter, 'tries', try + 1, 'reason', ARGV[4], 'tried_at', stamp(at))
if outcome == 'failed' then
  redis.call('ZADD', OUTBOX, stamp(at + tonumber(ARGV[5])), id)
  return 'ok'
end
redis.call('ZREM', OUTBOX, id)
redis.call('ZADD', DEAD, stamp(at), id)
redis.call('EXPIRE', letter, 30 * DAY)
redis.call('ZREMRANGEBYSCORE', DEAD, '-inf', stamp(at - 30 * DAY))
if outcome == 'gone' then
  redis.call('SET', ARGV[6], stamp(at), 'EX', 30 * DAY)
end
return 'ok'
