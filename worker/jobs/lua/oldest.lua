-- For how long the first job that waits in these lists has waited since it was ordered.
-- ARGV: queue lists
-- Returns seconds, or '' if none waits.
local oldest
for _, list in ipairs(ARGV) do
  -- A job given back stands first, and was ordered before whatever came after it.
  local id = redis.call('LINDEX', list, 0)
  local at = id and field(id, 'created_at')
  if at and (not oldest or tonumber(at) < oldest) then
    oldest = tonumber(at)
  end
end
return oldest and stamp(math.max(0, now() - oldest)) or ''
