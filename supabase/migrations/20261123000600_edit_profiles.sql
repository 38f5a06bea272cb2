-- A user's own profile, and the preferences that reach an agent's environment.

create trigger update_users_updated_at before update on public.users
    for each row execute function public.update_updated_at_column();

-- Supabase's clients send `select *`, which one column that a user may not read would refuse whole. So this one may be read,
-- and nothing can stand in it: a token in a readable row is a token lost.
update public.users set github_token = null where github_token is not null;
alter table public.users add constraint users_github_token_check check (github_token is null);
grant select (github_token) on public.users to authenticated;

-- What a run's environment may be at most; `not valid`, so that a row from before does not stop the migration.
alter table public.users add constraint users_preferences_check check (
    preferences is null or (jsonb_typeof(preferences) = 'object' and octet_length(preferences::text) <= 131072)) not valid;

-- Changes the caller's own row, as the caller: keys full_name, avatar_url, github_username, preferences; others are
-- ignored. Of the preferences, each section that is named replaces the stored one; a null section is removed, and null
-- instead of any removes all. Returns the row as its owner may see it, null where there is none.
create function public.update_profile(p_changes jsonb) returns jsonb
language sql set search_path = '' as $$
    with changed as (
        update public.users u set
            full_name = case when p_changes ? 'full_name' then p_changes ->> 'full_name' else u.full_name end,
            avatar_url = case when p_changes ? 'avatar_url' then p_changes ->> 'avatar_url' else u.avatar_url end,
            github_username = case when p_changes ? 'github_username'
                then p_changes ->> 'github_username' else u.github_username end,
            preferences = case when not p_changes ? 'preferences' then u.preferences else (
                select coalesce(jsonb_object_agg(s.key, s.value), '{}'::jsonb)
                from jsonb_each(case when jsonb_typeof(u.preferences) = 'object' then u.preferences else '{}'::jsonb end
                    || nullif(p_changes -> 'preferences', 'null'::jsonb)) as s
                where s.value <> 'null'::jsonb) end
        where u.id = (select auth.uid())
        returning u.id, u.email, u.full_name, u.avatar_url, u.github_username, u.preferences, u.created_at, u.updated_at,
            u.is_test_user, u.expires_at)
    select to_jsonb(c) from changed c
$$;

revoke all on function public.update_profile(jsonb) from public, anon, authenticated;
grant execute on function public.update_profile(jsonb) to authenticated;

-- As before, but never for an anonymous user: anybody can make any number of those, and each would get limits of its own.
create or replace function public.has_live_session(p_user_agent text) returns boolean
language sql stable security definer set search_path = '' as $$
    select exists (
        select 1 from auth.sessions s join auth.users u on u.id = s.user_id
        where s.user_id = auth.uid() and s.user_agent = p_user_agent and not u.is_anonymous
            and (s.not_after is null or s.not_after > now())
            and coalesce(s.refreshed_at at time zone 'utc', s.created_at) > now() - interval '70 minutes')
$$;
