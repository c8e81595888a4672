-- Hands out the next job of the first queue that has one, into that queue's intermediate list.
-- ARGV: token of this call, then each queue's list and intermediate list, the first to serve first
-- Returns {queue list, id}, or nothing. The same token takes the same job for a minute.
local token = TAKEN .. ARGV[1]

local taken = redis.call('GET', token)
if taken then
  return { string.match(taken, '^(%S+) (.*)$') }
end
for i = 2, #ARGV, 2 do
  local id = not is_paused(ARGV[i]) and next_of(ARGV[i])
  if id then
    redis.call('RPUSH', ARGV[i + 1], id)
    redis.call('SET', token, ARGV[i] .. ' ' .. id, 'EX', 60)
    return { ARGV[i], id }
  end
end
return false
