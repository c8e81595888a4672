-- Admits one job, or nothing: row, queue entry and indexes are written together. One whose film
-- another makes now follows that one; one whose film was made before has ended at once.
-- ARGV: id, tenant, fingerprint, hash of the idempotency key or '', '1' for a declared retry,
--       depth cap, default caps of a tenant's active and waiting jobs, number of the model's queue
--       lists, these lists, set of queue lists, queue entry, number of row arguments, row fields
--       and values, queue entry fields and values
-- Returns {created | replay | conflict | queue_full | tenant_full | tenant_queue_full, id, cap}.
local id, tenant, fp, idem, retry = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local depth_cap = tonumber(ARGV[6])
local active_cap = limit_of(tenant, 'max_active', ARGV[7])
local queued_cap = limit_of(tenant, 'max_queued', ARGV[8])
local after_lists = 10 + tonumber(ARGV[9])
local lists = { unpack(ARGV, 10, after_lists - 1) }
local queues, entry = ARGV[after_lists], ARGV[after_lists + 1]
local first = after_lists + 3
local after_row = first + tonumber(ARGV[after_lists + 2])

local idem_key = IDEMPOTENCY .. tenant .. ':' .. idem
local fp_key = FINGERPRINT .. tenant .. ':' .. fp
local active, index = TENANT .. tenant .. TENANT_ACTIVE, TENANT .. tenant .. TENANT_JOBS

if redis.call('EXISTS', JOB .. id) == 1 then
  return { 'created', id }
end
local known = recall(tenant, fp, idem, retry)
if known then
  return known
end
local row = { unpack(ARGV, first, after_row - 1) }
local given = {}
for i = 1, #row, 2 do
  given[row[i]] = row[i + 1]
end
local made = given.made_by ~= ''
local leader = not made and leader_for(tenant, given.share, given.queue)
if not made and redis.call('SCARD', active) >= active_cap then
  return { 'tenant_full', id, active_cap }
end
local depth, waiting = 0, 0
for _, list in ipairs(lists) do
  depth = depth + redis.call('LLEN', list)
  waiting = waiting + redis.call('LLEN', line_of(list, tenant))
end
if not (made or leader) and waiting >= queued_cap then
  return { 'tenant_queue_full', id, queued_cap }
end
if not (made or leader) and depth >= depth_cap then
  return { 'queue_full', id, depth_cap }
end

local at = now()
redis.call('HSET', JOB .. id, 'created_at', stamp(at), unpack(row))
redis.call('HSET', JOB .. id, 'queue_deadline', stamp(at + tonumber(field(id, 'queue_deadline_s'))))
if not made then
  redis.call('HSET', entry, unpack(ARGV, after_row))
end
redis.call('SADD', queues, field(id, 'queue'))
redis.call('SADD', LIVE, id)
redis.call('SADD', active, id)
-- Rows expire by themselves; the index forgets its two oldest then, so that it never only grows.
for _, oldest in ipairs(redis.call('ZRANGE', index, 0, 1)) do
  if redis.call('EXISTS', JOB .. oldest) == 0 then
    redis.call('ZREM', index, oldest)
  end
end
redis.call('ZADD', index, stamp(at), id)
if idem ~= '' then
  redis.call('SET', idem_key, id .. ' ' .. fp, 'EX', DAY)
end
redis.call('SET', fp_key, id, 'EX', 900)
if made then
  finish(id, 'completed', 'result', given.result, given.ended_by)
  return { 'created', id }
end
if leader then
  follow(id, leader)
else
  join(id, false)
  if given.share ~= '' then
    redis.call('SET', SHARE .. tenant .. ':' .. given.share, id)
  end
end
emit(id, 'queued')
return { 'created', id }
