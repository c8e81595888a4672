-- Puts a dead letter back into the outbox, due at once and with every try before it.
-- ARGV: letter
-- Returns 1, or 0 if it is none.
local id = ARGV[1]
local letter = LETTER .. id
if redis.call('ZREM', DEAD, id) == 0 or redis.call('EXISTS', letter) == 0 then
  return 0
end
local at = stamp(now())
-- Asked for anew: that the receiver wanted no more before does not count.
redis.call('HSET', letter, 'tries', 0, 'asked_at', at)
redis.call('PERSIST', letter)
redis.call('ZADD', OUTBOX, at, id)
return 1
