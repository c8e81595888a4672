-- Writes a new API key; its name may never have been used.
-- ARGV: name, hex digest, tenant, '1' if it may use priority
-- Returns created | taken.
local name, digest = ARGV[1], ARGV[2]
local known = redis.call('HGET', API_KEYS, name)
if known and known ~= digest then
  return 'taken'
end
redis.call('HSET', API_KEYS, name, digest)
redis.call('HSETNX', API_KEY .. digest, 'created_at', stamp(now()))
redis.call('HSET', API_KEY .. digest, 'name', name, 'tenant', ARGV[3], 'priority', ARGV[4])
return 'created'
