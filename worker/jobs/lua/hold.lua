-- Keeps a letter that is due from every other sender for a while: whoever holds it sends it.
-- ARGV: letter, seconds
-- Returns 1 if it was due, else 0.
local due = redis.call('ZSCORE', OUTBOX, ARGV[1])
if not due or tonumber(due) > now() then
  return 0
end
redis.call('ZADD', OUTBOX, stamp(now() + tonumber(ARGV[2])), ARGV[1])
return 1
