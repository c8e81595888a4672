-- Puts a queued job that is in no list and under no lease at the front of its queue, and clears
-- the intermediate list of a job that needs no queue any more.
-- ARGV: id, intermediate list, registry of leases
-- Returns pushed | none.
local id, intermediate, wip = ARGV[1], ARGV[2], ARGV[3]
local state = field(id, 'state')
if state == 'in_progress' then
  return 'none'
end
if state ~= 'queued' then
  redis.call('LREM', intermediate, 0, id)
  return 'none'
end
if redis.call('LPOS', field(id, 'queue'), id) or follows(id) then
  return 'none'
end
local prefix = id .. ':'
for _, member in ipairs(redis.call('ZRANGEBYSCORE', wip, '(' .. stamp(now()), '+inf')) do
  if string.sub(member, 1, #prefix) == prefix then
    return 'none'
  end
end
redis.call('LREM', intermediate, 0, id)
leave(id) -- its line may hold it although the list has lost it
join(id, true)
return 'pushed'
