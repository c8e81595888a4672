-- Hands out the next job of the first queue that has one, into that queue's intermediate list.
-- ARGV: token of this call, then each queue's list and intermediate list, the first to serve first
-- Returns {queue list, id}, or nothing. The same token takes the same job for a minute.
local token = TAKEN .. ARGV[1]

local function is_in_line(queue, id)
  local tenant = field(id, 'tenant')
  return tenant and redis.call('LPOS', line_of(queue, tenant), id)
end

local function serve_tenant(queue, tenant)
  local line, turn = line_of(queue, tenant), redis.call('INCR', CLOCK .. queue)
  local id = redis.call('LPOP', line)
  redis.call('LREM', queue, 0, id)
  redis.call('ZADD', SERVED .. queue, turn, tenant)
  -- Whoever is forgotten here counts as never served: even sooner the next.
  redis.call('ZREMRANGEBYSCORE', SERVED .. queue, '-inf', turn - 10000)
  if redis.call('EXISTS', line) == 1 then
    redis.call('ZADD', TURNS .. queue, turn, tenant)
  else
    redis.call('ZREM', TURNS .. queue, tenant)
  end
  return id
end

local function next_of(queue)
  local head = redis.call('LINDEX', queue, 0)
  if head and not is_in_line(queue, head) then
    return redis.call('LPOP', queue) -- pushed past admission: it waits for its place by arrival
  end
  local tenant = redis.call('ZRANGE', TURNS .. queue, 0, 0)[1]
  if tenant then
    return serve_tenant(queue, tenant)
  end
  redis.call('DEL', BELL .. queue)
  return false
end

local taken = redis.call('GET', token)
if taken then
  return { string.match(taken, '^(%S+) (.*)$') }
end
local all_paused = redis.call('SISMEMBER', PAUSED, '*') == 1
for i = 2, #ARGV, 2 do
  local paused = all_paused or redis.call('SISMEMBER', PAUSED, ARGV[i]) == 1
  local id = not paused and next_of(ARGV[i])
  if id then
    redis.call('RPUSH', ARGV[i + 1], id)
    redis.call('SET', token, ARGV[i] .. ' ' .. id, 'EX', 60)
    return { ARGV[i], id }
  end
end
return false
