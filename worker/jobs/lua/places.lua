-- How many jobs will be handed out before each of these, if none comes, goes or fails meanwhile.
-- ARGV: for each job its id, the number of queues that are served before its own, their lists
-- Returns a number each, -1 for a job in no line.
local orders = {}

-- The tenants of a queue in turn, with the lengths of their lines.
local function order_of(queue)
  if not orders[queue] then
    local order = redis.call('ZRANGE', TURNS .. queue, 0, -1)
    for i, tenant in ipairs(order) do
      order[i] = { tenant = tenant, waiting = redis.call('LLEN', line_of(queue, tenant)) }
    end
    orders[queue] = order
  end
  return orders[queue]
end

-- In every round each tenant that still has a line is served once; `rounds` pass before ours.
local function served_before(queue, tenant, rounds)
  local count, passed = rounds, false
  for _, other in ipairs(order_of(queue)) do
    if other.tenant == tenant then
      passed = true
    else
      count = count + math.min(other.waiting, passed and rounds or rounds + 1)
    end
  end
  return count
end

local places, i = {}, 1
while ARGV[i] do
  local id, above, place = ARGV[i], tonumber(ARGV[i + 1]), -1
  local queue, tenant = field(id, 'queue'), field(id, 'tenant')
  local rounds = queue and redis.call('LPOS', line_of(queue, tenant), id)
  if rounds then
    place = served_before(queue, tenant, rounds)
    for j = i + 2, i + 1 + above do
      place = place + redis.call('LLEN', ARGV[j])
    end
  end
  places[#places + 1] = place
  i = i + 2 + above
end
return places
