-- Up to `count` ids of a tenant after a known one, in one order.
-- ARGV: tenant, id or '', count, '1' for the newest first
-- Returns the ids, or nothing if the known one is not the tenant's.
local index = TENANT .. ARGV[1] .. TENANT_JOBS
local descending = ARGV[4] == '1'
local start = 0
if ARGV[2] ~= '' then
  local rank = redis.call(descending and 'ZREVRANK' or 'ZRANK', index, ARGV[2])
  if not rank then
    return false
  end
  start = rank + 1
end
return redis.call(descending and 'ZREVRANGE' or 'ZRANGE', index, start, start + tonumber(ARGV[3]) - 1)
