-- The waiting ids of some queues in the order in which they will be handed out, if none comes,
-- goes or fails meanwhile: what TAKE will do, and PLACES counts.
-- ARGV: the queues' lists, the first to serve first
local ordered = {}
for _, queue in ipairs(ARGV) do
  local tenants = redis.call('ZRANGE', TURNS .. queue, 0, -1)
  local lines, longest = {}, 0
  for i, tenant in ipairs(tenants) do
    lines[i] = redis.call('LRANGE', line_of(queue, tenant), 0, -1)
    longest = math.max(longest, #lines[i])
  end
  for round = 1, longest do
    for i = 1, #tenants do
      ordered[#ordered + 1] = lines[i][round]
    end
  end
end
return ordered
