-- Who is next: TAKE hands out by it, MATES likewise, ORDER and PLACES foretell it.

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

-- The id that `next_of` would take, or nothing.
local function first_of(queue)
  local head = redis.call('LINDEX', queue, 0)
  if not head or not is_in_line(queue, head) then
    return head
  end
  local tenant = redis.call('ZRANGE', TURNS .. queue, 0, 0)[1]
  return tenant and redis.call('LINDEX', line_of(queue, tenant), 0)
end

-- A paused model's queues of every class of workers are.
local function is_paused(queue)
  local anybodys = string.gsub(queue, '@[^:]*', '')
  return redis.call('SISMEMBER', PAUSED, '*') == 1 or redis.call('SISMEMBER', PAUSED, anybodys) == 1
end
