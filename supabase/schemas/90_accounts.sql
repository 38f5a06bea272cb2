-- Users: their profile, their sessions, their API keys, and which of them are test users.

-- A new row in auth.users gets its row in public.users. Only the service can write raw_app_meta_data, so that decides who is
-- a test user; raw_user_meta_data is what the person who signs up has sent.
create function public.handle_new_user() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    is_test boolean := new.raw_app_meta_data ->> 'is_test_user' = 'true';
    ttl_hours numeric := case
        when new.raw_app_meta_data ->> 'ttl_hours' ~ '^[0-9]{1,4}(\.[0-9]{1,4})?$'
        then (new.raw_app_meta_data ->> 'ttl_hours')::numeric else 1 end;
begin
    insert into public.users (id, email, full_name, avatar_url, is_test_user, expires_at)
    values (
        new.id, new.email,
        new.raw_user_meta_data ->> 'full_name', new.raw_user_meta_data ->> 'avatar_url',
        coalesce(is_test, false),
        case when is_test then now() + ttl_hours * interval '1 hour' end
    )
    on conflict (id) do nothing;
    return new;
end $$;

create trigger on_auth_user_created after insert on auth.users
    for each row execute function public.handle_new_user();

-- Follows a changed email, name or picture. A sign-in, which also updates auth.users, leaves the profile alone.
create function public.handle_user_update() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    update public.users set
        email = new.email,
        full_name = coalesce(new.raw_user_meta_data ->> 'full_name', full_name),
        avatar_url = coalesce(new.raw_user_meta_data ->> 'avatar_url', avatar_url),
        updated_at = now()
    where id = new.id;
    return new;
end $$;

create trigger on_auth_user_updated after update on auth.users
    for each row
    when (old.email is distinct from new.email or old.raw_user_meta_data is distinct from new.raw_user_meta_data)
    execute function public.handle_user_update();

create function public.is_test_user(user_id uuid) returns boolean
language sql stable security definer set search_path = '' as $$
    select coalesce((select u.is_test_user from public.users u where u.id = is_test_user.user_id), false)
$$;

-- Rows of a test user are marked as test data, whatever the insert says.
create function public.mark_test_data() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    new.is_test_data := public.is_test_user(new.user_id);
    return new;
end $$;

create trigger mark_test_data_on_project before insert on public.projects
    for each row execute function public.mark_test_data();
create trigger mark_test_data_on_task before insert on public.tasks
    for each row execute function public.mark_test_data();

-- Changes the caller's row, with the caller's rights: keys full_name, avatar_url, github_username, preferences; others are
-- ignored. In preferences, each given section replaces the stored one; a null section is removed, and null instead of
-- preferences removes all. Returns the row as its owner may see it, or null where there is none.
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

-- Whether the caller has a Supabase session of this user agent that was refreshed within the last 70 minutes (the access
-- token lives 60). Never true for an anonymous user: anybody can make any number of those, and each would have limits of its
-- own. For TOKEN_EXCHANGE=session-bound.
create function public.has_live_session(p_user_agent text) returns boolean
language sql stable security definer set search_path = '' as $$
    select exists (
        select 1 from auth.sessions s join auth.users u on u.id = s.user_id
        where s.user_id = auth.uid() and s.user_agent = p_user_agent and not u.is_anonymous
            and (s.not_after is null or s.not_after > now())
            and coalesce(s.refreshed_at at time zone 'utc', s.created_at) > now() - interval '70 minutes')
$$;

-- Stores the hash of a new key. PT401: the caller has not signed in. PT409: the caller has the maximum number of keys.
create function public.create_api_key(p_name text, p_key_hash text, p_hint text, p_expires_at timestamptz default null)
returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_key public.api_keys;
begin
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    perform pg_advisory_xact_lock(hashtextextended('api keys of ' || v_user, 3));
    if (select count(*) from public.api_keys k where k.user_id = v_user) >= 50 then
        raise sqlstate 'PT409' using message = 'too_many_api_keys';
    end if;
    insert into public.api_keys (user_id, name, key_hash, hint, expires_at)
    values (v_user, p_name, p_key_hash, p_hint, p_expires_at)
    returning * into v_key;
    return to_jsonb(v_key) - 'key_hash' - 'user_id';
end $$;

-- The user whose valid key has this hash, or null. Everyone may ask: a hash of 256 random bits cannot be guessed.
create function public.user_of_api_key(p_key_hash text) returns uuid
language plpgsql security definer set search_path = '' as $$
declare
    v_key public.api_keys;
begin
    select * into v_key from public.api_keys k
    where k.key_hash = p_key_hash and (k.expires_at is null or k.expires_at > now());
    if v_key.last_used_at is null or v_key.last_used_at < now() - interval '1 minute' then
        update public.api_keys set last_used_at = now() where id = v_key.id;
    end if;
    return v_key.user_id;
end $$;

revoke all on function
    public.handle_new_user, public.handle_user_update, public.is_test_user, public.mark_test_data, public.update_profile,
    public.has_live_session, public.create_api_key, public.user_of_api_key
    from public, anon, authenticated;
grant execute on function public.update_profile, public.has_live_session, public.create_api_key to authenticated;
grant execute on function public.user_of_api_key to anon, authenticated;
