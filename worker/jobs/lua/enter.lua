-- Whom a request comes from, and whether its tenant may make one more now. The whole quota of a
-- minute may be used at once; it comes back evenly.
-- ARGV: hex digest of the key or '', tenant if already known or '', tenant of requests without a
--       key or '' if they are refused, token of this request, default requests per minute
-- Returns {known | unknown | limited, tenant, '1' if it may use priority, quota or 0 for no limit,
-- requests left, milliseconds until all are back, milliseconds until one is}. The same token asked
-- again at once counts once.
local digest, tenant, anonymous, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local WINDOW = 60
local priority = '0'

if tenant == '' and digest ~= '' then
  local key = redis.call('HMGET', API_KEY .. digest, 'tenant', 'priority', 'revoked_at')
  if key[1] and not key[3] then
    tenant, priority = key[1], key[2]
  end
end
if tenant == '' then
  if anonymous == '' or redis.call('EXISTS', API_KEYS) == 1 then
    return { 'unknown' }
  end
  tenant = anonymous
end
local quota = limit_of(tenant, 'requests_per_minute', ARGV[5])
if quota == 0 then
  return { 'known', tenant, priority, 0, 0, 0, 0 }
end

local rate, at, each = TENANT .. tenant .. TENANT_RATE, now(), WINDOW / quota
local before = redis.call('HMGET', rate, 'full_at', 'quota', 'token')
-- What was used stays used if the quota is changed: it is kept as time, so it is scaled.
local used = math.max(tonumber(before[1] or at) - at, 0) * tonumber(before[2] or quota) / quota
local full_at = at + used
local verdict, wait = 'known', 0
if before[3] ~= token then
  wait = math.max(full_at + each - WINDOW - at, 0)
  if wait > 1e-6 then
    verdict = 'limited'
  else
    full_at = full_at + each
    redis.call('HSET', rate, 'full_at', stamp(full_at), 'quota', quota, 'token', token)
    redis.call('EXPIRE', rate, 2 * WINDOW)
  end
end
local left = math.max(math.floor((WINDOW - (full_at - at)) / each + 1e-3), 0)
local function milliseconds(seconds)
  return math.ceil(seconds * 1000)
end
return { verdict, tenant, priority, quota, left, milliseconds(full_at - at), milliseconds(wait) }
